"""What was measured of the weights themselves, as tables: sensitivity to noise, and distance moved by fine-tuning.

Reads    output/perturbations/*.json (eval/perturb_weights.py) and output/weight_distances/*.json
         (eval/weight_distance.py), with their sidecars.
Writes   results/analysis/perturbation.csv and weight_distances.csv, where there are such records.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.tables.frames import (
    DISTANCE_COLUMNS,
    DISTANCE_TABLE,
    NOISE_COLUMNS,
    NOISE_TABLE,
    Tables,
    as_table,
    write_table,
)
from open_instruct.common import paths
from open_instruct.common.artifacts import sidecar_path
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json

Record = Mapping[str, Any]


def write_weight_tables(tables: Tables, folder: Path, arguments: Mapping[str, Any]) -> None:
    """Both tables of the models that `tables` hold; a table without rows is not written, an old one of it removed."""
    models = models_of(tables)
    wanted = (
        (NOISE_TABLE, NOISE_COLUMNS, "perturbations", noise_rows),
        (DISTANCE_TABLE, DISTANCE_COLUMNS, "weight_distances", distance_rows),
    )
    for name, columns, folder_name, rows_of in wanted:
        rows = list(rows_of_records(folder_name, models, rows_of))
        if rows:
            write_table(folder / name, as_table(rows, columns), {}, arguments)
        else:
            (folder / name).unlink(missing_ok=True)
            sidecar_path(folder / name).unlink(missing_ok=True)


def models_of(tables: Tables) -> dict[str, dict[str, Any]]:
    """Model id -> family, series, train set, checkpoint and tokens, as everywhere in the tables."""
    names = ["model_id", "family", "series", "train_set", "checkpoint", "tokens"]
    rows = pd.concat([tables.performance, tables.suites]).to_dict("records")
    return {row["model_id"]: {name: row[name] for name in names} for row in rows}


def rows_of_records(
    folder_name: str,
    models: Mapping[str, Mapping[str, Any]],
    rows_of: Callable[[Record, Path], Iterator[dict[str, Any]]],
) -> Iterator[dict[str, Any]]:
    """Rows of the finished records of known models, by name of the file."""
    for path in sorted((paths.base_dir() / "output" / folder_name).glob("*.json")):
        if path.name.endswith(".meta.json") or path.name.startswith("."):
            continue
        if not sidecar_path(path).is_file():
            print(f"left out: {paths.relative(path)} has no sidecar, so it is unfinished")
            continue
        record = read_json(path)
        model_id = record.get("identity", {}).get("model_id")
        if model_id not in models:
            print(f"left out: {paths.relative(path)} is of {model_id}, which the tables hold no measurement of")
            continue
        about = {**models[model_id], "source": paths.relative(path)}
        try:
            yield from (about | row for row in rows_of(record, path))
        except KeyError as error:
            raise UserError(f"{path}: found no {error} in it; remove it and run its script again") from error


def noise_rows(record: Record, path: Path) -> Iterator[dict[str, Any]]:
    """A row for each size: what noise costs on average over the draws, Student's t interval over them."""
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


def distance_rows(record: Record, path: Path) -> Iterator[dict[str, Any]]:
    """A row for each layer, and one for `all`."""
    for found in record["layers"]:
        norm = found["base_norm"]
        relative = found["distance"] / norm if norm else None
        about = {"layer": found["layer"], "distance": found["distance"], "base_norm": norm, "relative": relative}
        yield about | {"weights": found["num_weights"]}
