"""Read and validate prediction files."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.prediction.label_parsing import label_in
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_jsonl
from open_instruct.common.sidecars import has_sidecar, read_sidecar
from open_instruct.data.record_ids import require_id
from open_instruct.data.registry import read_datasets
from open_instruct.tasks import PROTOCOLS
from open_instruct.tasks.declarations import PRIMARY_METRICS, EvalSet, Protocol

REQUIRED = {"generation": ("output",), "labels": ("output",), "text": ("gold_logprob",)}
"""Kind -> the fields that a model adds to each record."""
OPTIONAL = ("gold_logprob", "finished", "scores")
"""Fields of all records of a file or of none: predictions made elsewhere may lack them."""
FIX = "make it again with `python eval/predict.py --overwrite`"


def identify_predictions(path: Path) -> dict[str, Any]:
    """Identity of a prediction file from its sidecar; without one, from its records' `dataset` and the task registry.

    Raises UserError for an empty file, an unknown dataset and an unknown kind.
    """
    identity = read_sidecar(path)["identity"] if has_sidecar(path) else {}
    if "kind" not in identity:
        first = next(read_jsonl(path, texts=("dataset",)), None)
        if first is None:
            raise UserError(
                f"{path}: is empty; expected one prediction a line: make it again with `python eval/predict.py`"
            )
        eval_set = declared_set(path, first["dataset"])
        of_file = (name for name in eval_set.template.prompts if path.stem.startswith(f"{eval_set.name}_{name}_"))
        known = eval_set.identity | {"format": next(of_file, "default"), "protocol": None, "shots": None}
        identity = {"model_id": path.stem} | known | identity
    if identity["kind"] not in PRIMARY_METRICS:
        raise UserError(
            f"{path}: kind {identity['kind']!r} in its sidecar; expected one of {', '.join(PRIMARY_METRICS)}"
        )
    return identity


def declared_set(path: Path, dataset: str) -> EvalSet:
    """The evaluation set that the records name, or else the one whose name the file's begins with: the records of the
    study's original code name several sets alike.

    Raises UserError where neither is declared.
    """
    datasets = read_datasets()
    of_file = [name for name in datasets.eval_sets if path.stem.startswith(f"{name}_")]
    try:
        return datasets.eval_set(dataset if dataset in datasets.eval_sets or not of_file else max(of_file, key=len))
    except UserError as error:
        raise UserError(f"{path}:1: no sidecar that names the kind of task, and {error}") from error


def read_predictions(path: Path, kind: str, identity: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """The records of a prediction file, of the `identity` that identify_predictions found.

    Label predictions without scores, as the study's original code writes them, are read as texts: "output" becomes the
    label that it begins with, and "labels" are those of the evaluation set. A record with `messages` has its gold
    completion in the last one.

    Raises UserError with file:line where a record lacks a field of its kind, has an impossible value, or repeats an id:
    models are compared item by item.
    """
    first = next(read_jsonl(path), {})
    identity = identity or {}
    protocol = PROTOCOLS[identity.get("protocol") or "corrected"]
    is_text = kind == "labels" and "output" in first and "scores" not in first
    known = read_datasets().eval_set(identity.get("eval_set") or str(first.get("dataset"))) if is_text else None
    is_chat = "messages" in first and "completion" not in first
    required = ("dataset", "id", *REQUIRED[kind], *(name for name in OPTIONAL if name in first))
    required += ("messages",) if is_chat else ()
    gold = () if is_chat else ("completion",)
    texts = gold if kind == "text" else (*gold, "output")
    records, seen = [], set[str | int]()
    try:
        for number, record in enumerate(read_jsonl(path, required, texts=texts), start=1):
            if more := [name for name in OPTIONAL if name in record and name not in first]:
                raise UserError(f"{path}:{number}: found {', '.join(more)}, which the first record lacks")
            if is_chat:
                record["completion"] = gold_turn(record["messages"])
            if known is not None:
                record |= as_label(record["output"], known, protocol)
            require_id(record["id"], place=f"{path}:{number}", seen=seen)
            if problem := problem_of(record, kind):
                raise UserError(f"{path}:{number}: found {problem}")
            records.append(record)
    except UserError as error:
        raise UserError(f"{error}; {FIX}") from error
    if not records:
        raise UserError(f"{path}: is empty; expected one prediction a line: {FIX}")
    return records


def as_label(output: str, eval_set: EvalSet, protocol: Protocol) -> dict[str, Any]:
    """A prediction by its text, which counts as wrong where it is no label."""
    labels = list(dict.fromkeys(eval_set.labels.values()))
    parse_order = eval_set.parse_order if protocol.answer == "substring" else ()
    return {"output": label_in(output.strip(), labels, parse_order), "labels": labels}


def gold_turn(messages: Any) -> Any:
    """The content of the last message; "" where there is none, which is refused like an empty completion."""
    last = messages[-1] if isinstance(messages, list) and messages else None
    content = last.get("content") if isinstance(last, dict) else None
    return content if isinstance(content, str) else ""


def problem_of(record: Mapping[str, Any], kind: str) -> str | None:
    """What is wrong with the values of one prediction, or None."""
    if not is_number(logprob := record.get("gold_logprob", 0.0)) or logprob > 1e-3:
        return f"gold_logprob {logprob!r}; expected a log-likelihood, at most 0"
    if not record["completion"]:
        return f"completion {record['completion']!r}; expected the gold text"
    if not isinstance(record.get("finished", True), bool):
        return f"finished {record['finished']!r}; expected true or false"
    if kind == "labels" and "labels" in record and "scores" not in record:
        if record["completion"].strip() not in record["labels"]:
            return f"gold {record['completion']!r}; expected one of the labels {record['labels']}"
    elif kind == "labels":
        scores = record["scores"]
        if not isinstance(scores, dict) or not all(map(is_number, scores.values())):
            return f"scores {scores!r}; expected label: log-likelihood"
        gold, labels = record["completion"].strip(), [label.strip() for label in scores]
        # The output of a free generation ("finished" is recorded) need not be a label; then it is wrong.
        expected = {gold} if "finished" in record else {gold, record["output"].strip()}
        if not expected <= set(labels) or len(labels) < 2:
            return f"gold {gold!r}, output {record['output']!r}; expected both among two or more labels: {labels}"
    return None


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
