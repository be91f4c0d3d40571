"""Tables of the weights themselves: sensitivity to noise, weight change by fine-tuning, and loss between both.

Records are output/perturbations/*.json (of eval/perturb_weights.py), output/weight_distances/*.json (of
eval/weight_distance.py) and output/interpolations/*.json (of eval/interpolate_weights.py), with their sidecars.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.tables.columns import (
    DISTANCE_COLUMNS,
    INTERPOLATION_COLUMNS,
    MODEL_COLUMNS,
    NOISE_COLUMNS,
    RANK_COLUMNS,
)
from analysis.tables.frames import as_table
from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json
from open_instruct.common.sidecars import sidecar_path
from open_instruct.study.config import Study

Record = Mapping[str, Any]


def weight_tables(scores: pd.DataFrame, study: Study | None = None) -> dict[str, pd.DataFrame]:
    """The tables of OPTIONAL with records of the models in `scores`, on the evaluation sets of `study`."""
    models = {row["model_id"]: {name: row[name] for name in MODEL_COLUMNS} for row in scores.to_dict("records")}
    noise = list(records_of("perturbations", models, study))
    distances = list(records_of("weight_distances", models, study))
    lines = list(records_of("interpolations", models, study))
    return {
        "noise": as_table(rows_of(noise, noise_rows), NOISE_COLUMNS),
        "distances": as_table(rows_of(distances, distance_rows), DISTANCE_COLUMNS),
        "ranks": as_table(rows_of(distances, rank_rows), RANK_COLUMNS),
        "interpolation": as_table(rows_of(lines, interpolation_rows), INTERPOLATION_COLUMNS),
    }


def records_of(
    folder_name: str, models: Mapping[str, Mapping[str, Any]], study: Study | None
) -> Iterator[tuple[dict[str, Any], Record]]:
    """(its model and source, record) of the finished records of known models, sorted by file name."""
    for path in sorted((paths.base_dir() / "output" / folder_name).glob("*.json")):
        if path.name.endswith(".meta.json") or path.name.startswith("."):
            continue
        if not sidecar_path(path).is_file():
            print(f"skipped: {paths.relative(path)} has no sidecar, so it is unfinished")
            continue
        record = read_json(path)
        identity = record.get("identity", {})
        model_id, eval_set = identity.get("model_id"), identity.get("eval_set")
        if model_id not in models:
            if study is None:
                print(f"skipped: {paths.relative(path)} is of model {model_id}, of which there is no measurement")
            continue
        if study and eval_set and eval_set not in study.evaluation:
            print(f"skipped: {paths.relative(path)} is of {eval_set}, which is not among the study's evaluation sets")
            continue
        yield {**models[model_id], "source": paths.relative(path)}, record


def rows_of(
    records: Iterable[tuple[dict[str, Any], Record]], rows_of_one: Callable[[Record], Iterator[dict[str, Any]]]
) -> Iterator[dict[str, Any]]:
    """Raises UserError for a record of an earlier version, which lacks something."""
    for about, record in records:
        try:
            yield from (about | row for row in rows_of_one(record))
        except KeyError as error:
            raise UserError(f"{about['source']}: no {error} in it; remove it and run its script again") from error


def noise_rows(record: Record) -> Iterator[dict[str, Any]]:
    """A row for each noise size: mean change over the draws, with Student's t interval."""
    identity, before = record["identity"], record["bits_per_byte"]
    changes: dict[float, list[float]] = {}
    for found in record["noise"]:
        changes.setdefault(found["size"], []).append(found["bits_per_byte"] - before)
    for size, values in changes.items():
        mean, draws = float(np.mean(values)), len(values)
        error = float(np.std(values, ddof=1) / np.sqrt(draws)) if draws > 1 else np.nan
        half = float(stats.t.ppf(0.975, draws - 1)) * error if draws > 1 else np.nan
        about = {"setting": identity["eval_set"], "size": size, "draws": draws, "n": record["n"]}
        about |= {"bits_per_byte": before, "difference": mean, "std": error}
        yield about | {"ci_low": mean - half, "ci_high": mean + half}


def distance_rows(record: Record) -> Iterator[dict[str, Any]]:
    """A row for each layer, and one for all weights."""
    for found in record["layers"]:
        norm = found["base_norm"]
        relative = found["distance"] / norm if norm else None
        about = {"layer": found["layer"], "distance": found["distance"], "base_norm": norm, "relative": relative}
        yield about | {"weights": found["num_weights"]}


def rank_rows(record: Record) -> Iterator[dict[str, Any]]:
    """A row for each matrix."""
    for found in record["matrices"]:
        yield {name: found[name] for name in RANK_COLUMNS if name in found} | {"full_rank": min(found["shape"])}


def interpolation_rows(record: Record) -> Iterator[dict[str, Any]]:
    """A row for each point of the line."""
    about = {"setting": record["identity"]["eval_set"], "n": record["n"], "barrier": record["barrier"]}
    losses = {found["alpha"]: found["bits_per_byte"] for found in record["points"]}
    for alpha, loss in losses.items():
        yield about | {"alpha": alpha, "bits_per_byte": loss, "difference": loss - losses[0]}
