"""Read finished metrics files and suite files; unchanged ones come from a cache.

The cache, output/measurements_cache.parquet, stores what the tables need of every file, with size and modification
time of the file and of its sidecar. It can be removed at any time.
"""

import json
import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import atomic_write, read_json
from open_instruct.common.sidecars import find_sidecar, sidecar_path
from open_instruct.study.config import Study

PREDICTIONS, SUITES = ("output/predictions", "metrics.json"), ("eval_results/eval_pipeline", "json")
"""Folder below base_dir, and ending of its files."""
REQUIRED_IDENTITY = {PREDICTIONS: ("model_id", "eval_set", "format", "protocol", "kind", "role"), SUITES: ("model_id",)}
SUITE_FIELDS = ("task", "task_options", "metrics", "num_instances")
CACHE_COLUMNS = ("path", "stamp", "identity", "model", "content", "ids", "primary_values", "gold_bits", "gold_bytes")
CACHE_COLUMNS += ("clusters",)
"""Identity, model, content, ids and clusters as JSON, values as float64 bytes."""
NO_SIDECAR = "unfinished: it has no sidecar"


@dataclass(frozen=True)
class Cell:
    """Per-item values of one model, all of shape (items,)."""

    ids: tuple[str, ...]
    values: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64] | None
    """Bytes, for bits per byte; None where every item has the same weight."""
    clusters: npt.NDArray[np.int64] | None = None
    """A number for each passage, subject or user that several items share; None where each item stands alone."""


@dataclass(frozen=True)
class Measurement:
    """One finished metrics file or suite file."""

    path: Path
    source: str
    """The path relative to base_dir."""
    identity: Mapping[str, Any]
    content: Mapping[str, Any]
    """Content of the file without its items."""
    cells: Mapping[str, Cell]
    """Metric -> values of each item: of the primary one and of bits per byte; empty where a file has no items."""
    model: Mapping[str, str] | None = None
    """Its `folder` and `hash`, where they are recorded."""


def read_measurements(
    wanted: Container[Path] | None = None,
) -> tuple[list[Measurement], list[Measurement], list[dict[str, Any]]]:
    """Metrics of predictions, suites, and rows of missing.csv for files that are not finished; sorted by file name.

    wanted  read these files only, whatever else is there

    Raises UserError where a file lacks a required field.
    """
    cache_file = paths.base_dir() / "output" / "measurements_cache.parquet"
    known = read_cache(cache_file)
    rows: dict[str, dict[str, Any]] = {}
    unfinished: list[dict[str, Any]] = []
    names: dict[tuple[str, str], list[str]] = {PREDICTIONS: [], SUITES: []}
    for place in names:
        for path, stamp in finished_files(place, unfinished):
            name = f"{place[0]}/{path.name}"
            row = known.get(name, {"stamp": None})
            if wanted is not None and path not in wanted:
                # It belongs to another study, which will look for it in the cache.
                if row["stamp"] == stamp:
                    rows[name] = row
                continue
            rows[name] = row if row["stamp"] == stamp else read_file(path, place) | {"stamp": stamp}
            rows[name]["path"] = name
            names[place].append(name)
    if any(known.get(name) is not row for name, row in rows.items()) or len(known) != len(rows):
        try:
            write_cache(cache_file, list(rows.values()))
        except (OSError, UserError) as error:
            print(f"note: the measurements were not cached: {error}")
    predictions, suites = ([to_measurement(rows[name]) for name in names[place]] for place in (PREDICTIONS, SUITES))
    return predictions, suites, unfinished


def finished_files(place: tuple[str, str], unfinished: list[dict[str, Any]]) -> Iterator[tuple[Path, str]]:
    """Files with a sidecar and their stamps, by name; those without are added to `unfinished`."""
    folder, ending = paths.base_dir() / place[0], place[1]
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        stats = {entry.name: entry.stat() for entry in entries if entry.name.endswith(".json")}
    for name in sorted(stats):
        if not name.endswith(f".{ending}") or name.endswith(".meta.json") or name.startswith("."):
            continue
        sidecar = stats.get(f"{name}.meta.json")
        if sidecar is None:
            row = {"model_id": None, "eval dataset": None, "reason": NO_SIDECAR}
            unfinished.append(row | {"file": paths.relative(folder / name)})
        else:
            yield folder / name, " ".join(f"{stat.st_size}:{stat.st_mtime_ns}" for stat in (stats[name], sidecar))


def read_file(path: Path, place: tuple[str, str]) -> dict[str, Any]:
    content, sidecar = read_json(path), read_json(sidecar_path(path))
    identity = content.get("identity") or sidecar.get("identity") or {}
    absent = [key for key in REQUIRED_IDENTITY[place] if key not in identity]
    absent += [] if "metrics" in content else ["metrics"]
    if absent:
        raise UserError(f"{path}: no {', '.join(absent)} in it; remove it and run its stage again")
    if place == SUITES:
        content = suite_content(content)
    items = content.get("items") or {}
    used = ("id", content.get("primary"), "gold_bits", "gold_bytes", "cluster")
    counts = {name: len(items[name]) for name in used if items.get(name) is not None}
    if len(set(counts.values())) > 1 or not all(size > 0 for size in items.get("gold_bytes") or ()):
        found = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise UserError(
            f"{path}: found {found}; expected as many of each, and positive gold_bytes; remove it and run its stage "
            "again"
        )
    return {
        "identity": json.dumps(identity),
        "model": json.dumps(measured_model(sidecar)),
        "content": json.dumps({key: content[key] for key in ("primary", "metrics") if key in content}),
        "ids": json.dumps(items.get("id")),
        "primary_values": to_bytes(items.get(content.get("primary"))),
        "gold_bits": to_bytes(items.get("gold_bits")),
        "gold_bytes": to_bytes(items.get("gold_bytes")),
        "clusters": json.dumps(items.get("cluster")),
    }


def measured_model(sidecar: Mapping[str, Any]) -> dict[str, str] | None:
    """Folder and hash of the model, from the sidecar of a suite file, or of the predictions of a metrics file."""
    if predictions := sidecar.get("input_paths", {}).get("predictions"):
        sidecar = find_sidecar(paths.absolute(predictions)) or {}
    folder, found = (sidecar.get(key, {}).get("model") for key in ("input_paths", "inputs"))
    return {"folder": folder, "hash": found} if folder and found else None


def require_one_model_an_id(measurements: Iterable[Measurement]) -> None:
    """Raises UserError where two models in different folders have the same id."""
    first: dict[str, Measurement] = {}
    for one in measurements:
        if one.model is None:
            continue
        other = first.setdefault(one.identity["model_id"], one)
        if other.model and all(one.model[key] != other.model[key] for key in ("folder", "hash")):
            raise UserError(
                f"{one.identity['model_id']} is the id of two models: {other.source} is of {other.model['folder']}, "
                f"and {one.source} of {one.model['folder']}; evaluate one of them with another --model_name, and move "
                "its files away"
            )


def suite_content(content: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a suite file to the shape of a metrics file; items are kept where it has those of one task."""
    results = [{k: v for k, v in result.items() if k in SUITE_FIELDS} for result in content["metrics"]]
    items = content["metrics"][0].get("items") if len(results) == 1 else None
    return {"metrics": results} | ({"primary": "acc", "items": items} if items else {})


def to_bytes(values: Sequence[float] | None) -> bytes | None:
    return None if values is None else np.asarray(values, dtype=np.float64).tobytes()


def read_cache(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid):
        return {}
    return {row["path"]: row for row in table.to_pylist()} if tuple(table.column_names) == CACHE_COLUMNS else {}


def write_cache(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    binary = {"primary_values", "gold_bits", "gold_bytes"}
    schema = pa.schema([(name, pa.large_binary() if name in binary else pa.string()) for name in CACHE_COLUMNS])
    artifact = Artifact(path, arguments={"columns": CACHE_COLUMNS})
    with artifact.making(), atomic_write(path, "wb") as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), file, compression="zstd")


def to_measurement(row: Mapping[str, Any]) -> Measurement:
    content, cells = json.loads(row["content"]), {}
    is_suite = isinstance(content["metrics"], list)
    for metric in ("acc",) if is_suite else dict.fromkeys((content.get("primary"), "bits_per_byte")):
        blob = row["gold_bits" if metric == "bits_per_byte" else "primary_values"]
        if blob is not None and (is_suite or metric in content["metrics"]):
            weights = parse_floats(row["gold_bytes"]) if metric == "bits_per_byte" else None
            cells[metric] = Cell(parse_ids(row["ids"]), np.frombuffer(blob), weights, parse_clusters(row["clusters"]))
    path = paths.base_dir() / row["path"]
    return Measurement(path, row["path"], json.loads(row["identity"]), content, cells, json.loads(row["model"]))


# The models of a study are evaluated on the same items: one copy of ids and lengths serves them all.
@lru_cache(maxsize=256)
def parse_ids(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


@lru_cache(maxsize=256)
def parse_floats(blob: bytes) -> npt.NDArray[np.float64]:
    return np.frombuffer(blob)


@lru_cache(maxsize=256)
def parse_clusters(text: str) -> npt.NDArray[np.int64] | None:
    """Codes of the names; an item without one is a cluster of its own."""
    names = json.loads(text)
    if not names or len({*names} - {None}) == len(names):
        return None
    codes: dict[Any, int] = {}
    keys = [(i, None) if name is None else (None, name) for i, name in enumerate(names)]
    return np.array([codes.setdefault(key, len(codes)) for key in keys])


def expected_files(study: Study) -> tuple[dict[Path, tuple[str, str]], dict[Path, tuple[str, str]]]:
    """Metrics files and suite files of the whole grid -> model id and name of the evaluation set."""
    predictions, suites = {}, {}
    evaluations = study.evaluations()
    for variant in study.variants():
        for one in evaluations:
            name = paths.formatted_name(one.eval_set, one.task_format)
            predictions[one.metrics_file(one.prediction_file(variant.model_id))] = (variant.model_id, name)
        for files in study.suite_files(variant).values():
            suites |= {path: (variant.model_id, task) for task, path in files.items()}
    return predictions, suites


def missing_from(
    expected: Mapping[Path, tuple[str, str]],
    found: Sequence[Measurement],
    failed: Mapping[Path, str] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Rows of missing.csv, in the order of the study; `failed` says why a file could not be made."""
    finished = {measurement.path for measurement in found}
    rows = []
    for path, (model_id, dataset) in expected.items():
        if path not in finished:
            reason = failed.get(path) or (NO_SIDECAR if path.is_file() else "no such file")
            rows.append({"model_id": model_id, "eval dataset": dataset, "reason": reason, "file": paths.relative(path)})
    return rows
