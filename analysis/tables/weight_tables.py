"""Tables of the weights themselves: sensitivity to noise, and weight change by fine-tuning.

Records are output/perturbations/*.json (of eval/perturb_weights.py) and output/weight_distances/*.json (of
eval/weight_distance.py), with their sidecars.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.tables.columns import DISTANCE_COLUMNS, MODEL_COLUMNS, NOISE_COLUMNS
from analysis.tables.frames import as_table
from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json
from open_instruct.common.sidecars import sidecar_path
from open_instruct.study.config import Study

Record = Mapping[str, Any]


def weight_tables(scores: pd.DataFrame, study: Study | None = None) -> dict[str, pd.DataFrame]:
    """The tables `noise` and `distances` of the models in `scores`; of noise, on the evaluation sets of `study`."""
    models = {row["model_id"]: {name: row[name] for name in MODEL_COLUMNS} for row in scores.to_dict("records")}
    noise = rows_of_records("perturbations", models, noise_rows, study)
    distances = rows_of_records("weight_distances", models, distance_rows, study)
    return {"noise": as_table(noise, NOISE_COLUMNS), "distances": as_table(distances, DISTANCE_COLUMNS)}


def rows_of_records(
    folder_name: str,
    models: Mapping[str, Mapping[str, Any]],
    rows_of: Callable[[Record], Iterator[dict[str, Any]]],
    study: Study | None,
) -> Iterator[dict[str, Any]]:
    """Rows of the finished records of known models, sorted by file name."""
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
        about = {**models[model_id], "source": paths.relative(path)}
        try:
            yield from (about | row for row in rows_of(record))
        except KeyError as error:
            raise UserError(f"{path}: no {error} in it; remove it and run its script again") from error


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
