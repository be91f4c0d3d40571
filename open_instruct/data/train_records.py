"""Read and check the records of a train or validation file."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_jsonl, require_text
from open_instruct.common.sidecars import has_sidecar, read_sidecar
from open_instruct.data.record_ids import require_id

ROLES = ("system", "user", "assistant", "tool")
"""Of messages: the text before each is `<|role|>`, in training and evaluation alike."""


def require_train_file(path: Path) -> None:
    """Raises UserError where there is no such file, or its sidecar says that it is none to train on."""
    if path.is_dir():
        raise UserError(f"{path}: a folder; expected a train file of JSON lines")
    if not path.is_file():
        raise UserError(
            f"{path}: no such train file; make it with "
            f"`python open_instruct/format_generalization.py --train_sets {path.stem}`"
        )
    identity = read_sidecar(path).get("identity", {}) if has_sidecar(path) else {}
    if "eval_set" in identity:
        raise UserError(
            f"{path}: an evaluation file; a model that is trained on it cannot be evaluated on {identity['eval_set']}"
        )


def read_train_records(path: Path) -> list[dict[str, Any]]:
    """The records: {"id", "prompt", "completion"}, or {"id", "messages": [{"role", "content"}, …]}.

    Raises UserError with file:line at the first that is neither.
    """
    return list(checked_records(path, required=("id",)))


def checked_records(path: Path, required: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The records of a train or evaluation file one by one.  Raises UserError as `read_train_records` does."""
    for number, record in enumerate(read_jsonl(path, required), start=1):
        check_record(record, place=f"{path}:{number}")
        yield record


def check_record(record: Mapping[str, Any], *, place: str) -> None:
    require_id(record["id"], place=place)
    if "messages" in record:
        check_messages(record["messages"], place=place)
        return
    missing = [name for name in ("prompt", "completion") if name not in record]
    if missing:
        raise UserError(f"{place}: expected prompt and completion, or messages; found {', '.join(record)}")
    for name in ("prompt", "completion"):
        require_text(record[name], place=f"{place}: {name}")
    if not record["completion"].strip():
        raise UserError(f"{place}: the completion is empty; expected the text to train on")


def check_messages(messages: Any, *, place: str) -> None:
    if not isinstance(messages, list) or not all(isinstance(turn, dict) for turn in messages):
        raise UserError(f'{place}: messages {str(messages)[:60]!r}; expected a list of {{"role", "content"}}')
    for turn in messages:
        for name in ("role", "content"):
            if name not in turn:
                raise UserError(f"{place}: a message without {name}; found {', '.join(turn)}")
            require_text(turn[name], place=f"{place}: {name} of a message")
        if turn["role"] not in ROLES:
            raise UserError(f"{place}: role {turn['role'][:60]!r} of a message; expected {', '.join(ROLES)}")
    if not any(turn["role"] == "assistant" and turn["content"].strip() for turn in messages):
        roles = ", ".join(turn["role"] for turn in messages) or "none"
        raise UserError(f"{place}: no text of the role assistant, which is trained on; found roles {roles}")
