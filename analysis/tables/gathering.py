"""Gather rows of performance, and per-item values where there are some, from measurements or from released tables."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from analysis.tables.columns import MACRO_F1, PERFORMANCE_COLUMNS
from analysis.tables.curve_names import name_series
from analysis.tables.frames import as_table, checkpoint_order, found_checkpoints, groups
from analysis.tables.intervals import binomial
from analysis.tables.measurements import (
    Cell,
    Measurement,
    expected_files,
    missing_from,
    read_measurements,
    require_one_model_an_id,
)
from analysis.tables.parameters import Course, with_parameters
from analysis.tables.released import RELEASED_PERFORMANCE, is_own, read_released
from analysis.tables.replaced import own_rows
from analysis.tables.replicates import RUN, families_by_architecture, families_by_stage, label_replicates
from eval.metrics.aggregation import TOP_PREDICTION
from eval.metrics.bootstrap import Interval
from eval.metrics.metrics_file import reported_value
from olmo_eval.tasks import OTHER_NAMES
from open_instruct.checkpoints.families import curve_family
from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json
from open_instruct.study.config import Study
from open_instruct.study.variants import IDENTITY_FIELDS

SUITE_METRICS = ("acc", "acc_raw", "acc_per_token", "acc_per_char", "acc_uncond")
SAME_CHOICES = ("boolq", "rte", "mrpc", "sst2", "qqp", "qnli", "wnli", "wic", "wsc")
"""Suite tasks that have the same choices, in one order, for every item."""
EVALUATION_FIELDS = ("eval_set", "format", "protocol", "kind", "role")
ARCHITECTURE = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
ARCHITECTURE += ("vocab_size",)
"""Fields of config.json that are equal in replicates."""
Key = tuple[str, str, str]
"""Series, checkpoint, format."""


@dataclass(frozen=True)
class Gathered:
    rows: list[dict[str, Any]]
    """Of performance, with names of series and settings; kind `suite` among them."""
    cells: Mapping[tuple[str, str], Mapping[Key, Mapping[str, Mapping[str, Cell]]]]
    """(setting, metric) -> model -> replicate -> seed (where replicates are runs) -> items, where they are recorded."""
    missing: list[dict[str, Any]]
    inputs: Mapping[str, Path] = field(default_factory=dict)
    """Small files that were read; of measurements, each row names its file."""


def gather_measurements(study: Study | None, failed: Mapping[Path, str] = MappingProxyType({})) -> Gathered:
    """Rows of the study's grid, or of all finished measurements.

    `failed`: why a metrics file could not be made, for the rows of what is missing.
    Raises UserError where there are none, where two models have one id, or the same place in the tables.
    """
    expected_predictions, expected_suites = expected_files(study) if study else ({}, {})
    predictions, suites, missing = read_measurements(expected_predictions | expected_suites if study else None)
    if study:
        missing = missing_from(expected_predictions, predictions, failed) + missing_from(expected_suites, suites)
    else:
        about = {"model_id": None, "eval dataset": None}
        missing += [about | {"reason": why, "file": paths.relative(path)} for path, why in failed.items()]
    if not predictions and not suites:
        raise UserError(
            f"no finished measurement in {paths.base_dir()}: expected output/predictions/*.metrics.json with sidecars; "
            "make them with `python eval/predict.py` and `python eval/eval_pred.py`, or set base_dir to the folder "
            "that has them"
        )
    require_one_model_an_id([*predictions, *suites])
    everything = [*predictions, *suites]
    folders = base_folders(everything)
    rows = families_by_stage(with_parameters([*performance_rows(predictions), *suite_rows(suites)], folders))
    rows = name_series(families_by_architecture(rows, architectures(folders)))
    rows = label_replicates(rows, expected_runs(study))
    cells = cells_of(everything, rows)
    return Gathered(rows, cells, missing + without_numbers(everything, rows))


def without_numbers(measurements: Sequence[Measurement], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of missing.csv for items whose value is no number: no claim is made of them."""
    datasets = {(row["source"], row["metric"]): row["eval dataset"] for row in rows}
    found = []
    for measurement in measurements:
        for metric, cell in measurement.cells.items():
            if number := int((~np.isfinite(cell.values)).sum()):
                row = {"model_id": measurement.identity["model_id"], "file": measurement.source}
                row["eval dataset"] = datasets[measurement.source, metric]
                found.append(row | {"reason": f"{metric} of {number} of {len(cell.ids)} items is no number"})
    return found


def gather_released(folder: Path) -> Gathered:
    """Rows of the authors' released tables, or of tables of this project, without per-item values."""
    if (folder / RELEASED_PERFORMANCE).is_file() and is_own(folder / RELEASED_PERFORMANCE):
        rows, files = own_rows(folder)
        return Gathered(rows, {}, [], files)
    rows, files = read_released(folder)
    rows = label_replicates(with_parameters(rows))
    performance = table_of(row for row in rows if row["kind"] != "suite")
    return Gathered(rows, {}, missing_in_curves(performance), files)


def performance_rows(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    rows = []
    for measurement in measurements:
        identity, metrics = measurement.identity, measurement.content["metrics"]
        primary = measurement.content["primary"]
        beside = (MACRO_F1,) if primary == "accuracy" else ()
        for metric in dict.fromkeys((primary, *beside, "bits_per_byte")):
            if metric in metrics:
                value = metrics[metric]
                row = model_fields(measurement) | {name: identity[name] for name in EVALUATION_FIELDS}
                row |= {"shots": identity.get("shots") or 0, "metric": metric}
                row |= {name: identity.get(name) for name in ("limit", "conditions")}
                row |= {"eval dataset": paths.formatted_name(identity["eval_set"], identity["format"])}
                row |= {
                    "Performance": reported_value(Interval.from_json(value), row["protocol"]),
                    "std": value["standard_error"],
                    "n": value["n"],
                }
                row |= {"ci_low": value["ci_low"], "ci_high": value["ci_high"]}
                is_known = metric == "accuracy" and TOP_PREDICTION in metrics
                rows.append(row | {TOP_PREDICTION: metrics[TOP_PREDICTION]["mean"] if is_known else None})
    return rows


def suite_rows(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """A row for each form of accuracy, with binomial standard error and Wilson interval."""
    rows = []
    for measurement in measurements:
        for result in measurement.content["metrics"]:
            found, n = result["metrics"]["rc_metrics"], result["num_instances"]
            task = {"eval_set": result["task"], "eval dataset": result["task"], "format": "default", "n": n}
            task |= {"kind": "suite", "role": "other", "protocol": None}
            options = result.get("task_options", {})
            task |= {"shots": options.get("num_shots") or 0, "limit": options.get("limit")}
            task |= {"conditions": measurement.identity.get("conditions")}
            for metric in SUITE_METRICS:
                if metric in found:
                    score = {"metric": metric, "Performance": found[metric], **binomial(found[metric], n)}
                    rows.append(model_fields(measurement) | task | score | {TOP_PREDICTION: top_choice(result, metric)})
    return rows


def top_choice(result: Mapping[str, Any], metric: str) -> float | None:
    """Share of the most frequent choice by this form of accuracy, where the same index is the same answer."""
    found = result["metrics"]["rc_metrics"]
    form = (found.get("primary_metric", "") if metric == "acc" else metric).removeprefix("acc_")
    chosen = found.get(f"predicted_indices_{form}")
    return chosen[0][1] if chosen and has_same_choices(found.get("form", result["task"])) else None


def has_same_choices(task: str) -> bool:
    """Whether an index means the same answer for every item; multiple-choice prompts name the choices by letters."""
    name, _, variant = OTHER_NAMES.get(task, task).partition(":")
    return name in SAME_CHOICES or "mc" in re.split("[_:]", variant) or (name.startswith("mmlu") and not variant)


def model_fields(measurement: Measurement) -> dict[str, Any]:
    return {name: measurement.identity.get(name) for name in IDENTITY_FIELDS} | {"source": measurement.source}


def table_of(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """A table sorted by evaluation set, metric, series and checkpoint."""

    def order(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["eval dataset"], row["setting"], row["metric"], row["series"], checkpoint_order(row["checkpoint"])

    return as_table(sorted(rows, key=order), PERFORMANCE_COLUMNS)


def key_of(row: Mapping[str, Any]) -> Key:
    return row["series"], row["checkpoint"], row["format"]


def cells_of(
    measurements: Sequence[Measurement], rows: Sequence[Mapping[str, Any]]
) -> dict[tuple[str, str], dict[Key, dict[str, dict[str, Cell]]]]:
    """Per-item values of every model.  Raises UserError where two models have the same place in the tables."""
    named = {(row["source"], row["metric"]): row for row in rows}
    cells: dict[tuple[str, str], dict[Key, dict[str, dict[str, Cell]]]] = {}
    for measurement in measurements:
        for metric, cell in measurement.cells.items():
            row = named[measurement.source, metric]
            key = key_of(row)
            # Of one run every seed is averaged; where seeds are the replicates, each of them has one model.
            seed = str(row.get("seed")) if row["unit"] == RUN and row["train_set"] is not None else ""
            seeds = cells.setdefault((row["setting"], metric), {}).setdefault(key, {}).setdefault(row["replicate"], {})
            if seed in seeds:
                raise UserError(
                    f"{measurement.path}: a second model is {' '.join(key)} on {row['setting']}; "
                    "choose one grid with --study, or move the other away"
                )
            seeds[seed] = cell
    return cells


def expected_runs(study: Study | None) -> dict[str, set[str | None]]:
    """Family, as the tables name it -> the pre-training runs of the study."""
    runs: dict[str, set[str | None]] = {}
    for checkpoint in study.checkpoints() if study else ():
        runs.setdefault(curve_family(checkpoint.family, checkpoint.stage), set()).add(checkpoint.run)
    return runs


def base_folders(measurements: Sequence[Measurement]) -> dict[Course, Path]:
    """The folder of a base model of each stage and run, where it is recorded and still there."""
    found: dict[Course, Path] = {}
    for measurement in measurements:
        identity, model = measurement.identity, measurement.model or {}
        course = (identity.get("family"), identity.get("stage"), identity.get("run"))
        if course not in found and identity.get("train_set") is None and "folder" in model:
            folder = paths.absolute(model["folder"])
            if folder.is_dir():
                found[course] = folder
    return found


def architectures(folders: Mapping[Course, Path]) -> dict[tuple[str, str | None], tuple[Any, ...]]:
    """(family as the tables name it, run) -> size of its base models, of which the folder is known."""
    found: dict[tuple[str, str | None], tuple[Any, ...]] = {}
    for (family, stage, run), folder in folders.items():
        config = folder / "config.json"
        if family is not None and config.is_file():
            content = read_json(config)
            found[curve_family(family, stage), run] = tuple(content.get(name) for name in ARCHITECTURE)
    return found


def missing_in_curves(performance: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of missing.csv for released tables, which have no study: a curve with most checkpoints lacks the others."""
    checkpoints, rows = found_checkpoints(performance), []
    for (family, series, dataset, setting, metric), curve in groups(
        performance, "family", "series", "eval dataset", "setting", "metric"
    ):
        found = set(curve["checkpoint"])
        if len(found) >= len(checkpoints[family]) / 2:
            for name in checkpoints[family]:
                if name not in found:
                    reason = f"no row of {series} at {name} on {setting} ({metric}); the curve has {len(found)}"
                    row = {"model_id": f"{series} at {name}", "eval dataset": dataset, "reason": reason}
                    rows.append(row | {"file": None})
    return rows
