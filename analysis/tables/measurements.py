"""Finished metrics files and suite files, read once: what has not changed comes from a cache.

The cache, output/measurements_cache.parquet, holds what the tables need of every file, with the file's and its
sidecar's size and time. It can be removed at any time.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.inference.paired import Cell
from open_instruct.common import paths
from open_instruct.common.artifacts import sidecar_path
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import atomic_write, read_json
from open_instruct.study.config import Study

IDENTITY_OF = {
    "metrics.json": ("model_id", "eval_set", "format", "protocol", "kind", "role"),
    "json": ("model_id",),
}
SUITE_FIELDS = ("task", "task_options", "metrics", "num_instances")
CACHE_COLUMNS = ("path", "stamp", "identity", "content", "ids", "primary_values", "gold_bits", "gold_bytes")
"""Identity, content and ids as JSON, values as float64 bytes."""


@dataclass(frozen=True)
class Measurement:
    """One finished metrics file, or suite file."""

    path: Path
    source: str
    """The same, seen from base_dir."""
    identity: Mapping[str, Any]
    content: Mapping[str, Any]
    """Of the file, without its items."""
    cells: Mapping[str, Cell]
    """Metric -> values of each item: of the primary one and of bits per byte; empty where a file holds no items."""


def read_measurements() -> tuple[list[Measurement], list[Measurement], list[dict[str, Any]]]:
    """Predictions' metrics and suites, by name, and rows of missing.csv for files that are not finished.

    Raises UserError where a file has not the fields of its kind.
    """
    cache_file = paths.base_dir() / "output" / "measurements_cache.parquet"
    known = read_cache(cache_file)
    rows: dict[str, dict[str, Any]] = {}
    unfinished: list[dict[str, Any]] = []
    of_kind: dict[str, list[str]] = {}
    for ending, parts in (("metrics.json", ("output", "predictions")), ("json", ("eval_results", "eval_pipeline"))):
        folder = paths.base_dir().joinpath(*parts)
        found = list(finished_files(folder, ending, unfinished))
        for path, stamp in found:
            name = f"{'/'.join(parts)}/{path.name}"
            row = known.get(name)
            rows[name] = row if row and row["stamp"] == stamp else read_file(path, ending) | {"stamp": stamp}
            rows[name]["path"] = name
            of_kind.setdefault(ending, []).append(name)
    if any(known.get(name) is not row for name, row in rows.items()) or len(known) != len(rows):
        write_cache(cache_file, list(rows.values()))
    predictions, suites = (
        [measurement_of(rows[name]) for name in of_kind.get(ending, ())] for ending in ("metrics.json", "json")
    )
    return predictions, suites, unfinished


def finished_files(folder: Path, ending: str, unfinished: list[dict[str, Any]]) -> Iterator[tuple[Path, str]]:
    """Files with a sidecar and their stamps, by name; those without are added to `unfinished`."""
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        stats = {entry.name: entry.stat() for entry in entries if entry.name.endswith(".json")}
    for name in sorted(stats):
        if not name.endswith(f".{ending}") or name.endswith(".meta.json") or name.startswith("."):
            continue
        sidecar = stats.get(f"{name}.meta.json")
        if sidecar is None:
            row = {"model_id": None, "eval dataset": None, "reason": "unfinished: it has no sidecar"}
            unfinished.append(row | {"file": paths.relative(folder / name)})
        else:
            both = (stats[name], sidecar)
            yield folder / name, " ".join(f"{stat.st_size}:{stat.st_mtime_ns}" for stat in both)


def read_file(path: Path, ending: str) -> dict[str, Any]:
    content, sidecar = read_json(path), read_json(sidecar_path(path))
    identity = content.get("identity") or sidecar.get("identity") or {}
    absent = [key for key in IDENTITY_OF[ending] if key not in identity]
    absent += [] if "metrics" in content else ["metrics"]
    if absent:
        raise UserError(f"{path}: found no {', '.join(absent)} in it; remove it and run its stage again")
    if ending == "json":
        content = suite_content(content)
    items = content.get("items") or {}
    blobs = {name: as_bytes(items.get(name)) for name in ("gold_bits", "gold_bytes")}
    return {
        "identity": json.dumps(identity),
        "content": json.dumps({key: content[key] for key in ("primary", "metrics") if key in content}),
        "ids": json.dumps(items.get("id")),
        "primary_values": as_bytes(items.get(content.get("primary"))),
        **blobs,
    }


def suite_content(content: Mapping[str, Any]) -> dict[str, Any]:
    """A suite file in the shape of a metrics file: its items, where it holds those of one task, beside the metrics."""
    results = [{k: v for k, v in result.items() if k in SUITE_FIELDS} for result in content.get("metrics", ())]
    items = content["metrics"][0].get("items") if len(results) == 1 else None
    return ({"metrics": results} if "metrics" in content else {}) | (
        {"primary": "acc", "items": items} if items else {}
    )


def as_bytes(values: Sequence[float] | None) -> bytes | None:
    return None if values is None else np.asarray(values, dtype=np.float64).tobytes()


def read_cache(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid:
        return {}
    if tuple(table.column_names) != CACHE_COLUMNS:
        return {}
    columns = [table.column(name).to_pylist() for name in CACHE_COLUMNS]
    return {values[0]: dict(zip(CACHE_COLUMNS, values, strict=True)) for values in zip(*columns, strict=True)}


def write_cache(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    binary = {"primary_values", "gold_bits", "gold_bytes"}
    schema = pa.schema([(name, pa.large_binary() if name in binary else pa.string()) for name in CACHE_COLUMNS])
    columns = {name: [row[name] for row in rows] for name in CACHE_COLUMNS}
    table = pa.Table.from_pydict(columns, schema=schema)
    with atomic_write(path, "wb") as file:
        pq.write_table(table, file, compression="zstd")


def measurement_of(row: Mapping[str, Any]) -> Measurement:
    content, cells = json.loads(row["content"]), {}
    is_suite = isinstance(content["metrics"], list)
    for metric in ("acc",) if is_suite else dict.fromkeys((content.get("primary"), "bits_per_byte")):
        blob = row["gold_bits" if metric == "bits_per_byte" else "primary_values"]
        if blob is not None and (is_suite or metric in content["metrics"]):
            weights = floats_of(row["gold_bytes"]) if metric == "bits_per_byte" else None
            cells[metric] = Cell(ids_of(row["ids"]), np.frombuffer(blob), weights)
    path = paths.base_dir() / row["path"]
    return Measurement(path, row["path"], json.loads(row["identity"]), content, cells)


# The models of a study answer the same items: one copy of ids and lengths serves them all.
@lru_cache(maxsize=256)
def ids_of(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


@lru_cache(maxsize=256)
def floats_of(blob: bytes) -> np.ndarray:
    return np.frombuffer(blob)


def expected_files(study: Study) -> tuple[dict[Path, tuple[str, str]], dict[Path, tuple[str, str]]]:
    """Metrics files and suite files of the whole grid -> model id and name of the evaluation set."""
    predictions, suites = {}, {}
    for variant in study.variants():
        asked = [
            (eval_set, task_format, shots) for shots in study.shots for eval_set, task_format in study.asked(shots)
        ]
        for eval_set, task_format, shots in asked:
            path = paths.prediction_file(eval_set, task_format, variant.model_id, shots)
            predictions[paths.metrics_file(path)] = (variant.model_id, dataset_name(eval_set, task_format))
        if study.suite and variant.train_set in (None, *study.suite.train_sets):
            for task in study.suite.tasks:
                suites[paths.suite_file(task, variant.model_id)] = (variant.model_id, task)
    return predictions, suites


def missing_from(expected: Mapping[Path, tuple[str, str]], found: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Rows of missing.csv, in the order of the study."""
    finished = {measurement.path for measurement in found}
    rows = []
    for path, (model_id, dataset) in expected.items():
        if path not in finished:
            reason = "unfinished: it has no sidecar" if path.is_file() else "no such file"
            row = {"model_id": model_id, "eval dataset": dataset, "reason": reason, "file": paths.relative(path)}
            rows.append(row)
    return rows


def dataset_name(eval_set: str, task_format: str) -> str:
    return eval_set if task_format == "default" else f"{eval_set}_{task_format}"
