"""Gather every measurement into tables.

Reads    output/predictions/*.metrics.json and eval_results/eval_pipeline/*.json, with their sidecars; with --study
         the study, for what should be there.
Writes   results/analysis/all_perf_table.csv      a row for each model, evaluation set and metric
         results/analysis/official_eval_table.csv the same for the ranked-classification suites
         results/analysis/paired_differences.csv  models compared on the same items
         results/analysis/change_summary.csv      mean change and slope over checkpoints
         results/analysis/missing.csv             what the study asks for and is not there
The same measurements give the same bytes.

    python analysis/produce_tables.py --study scripts/studies/tiny.yaml
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.contrasts import FINE_TUNED_MINUS_BASE, Cell, Key, compare_all, found_checkpoints
from analysis.tidy import (
    DIFFERENCE_COLUMNS,
    DIFFERENCE_TABLE,
    MISSING_COLUMNS,
    MISSING_TABLE,
    PERFORMANCE_COLUMNS,
    PERFORMANCE_TABLE,
    SUITE_TABLE,
    SUMMARY_TABLE,
    as_table,
    name_series,
    order_checkpoints,
    select,
    summarise_changes,
    write_table,
)
from open_instruct import paths
from open_instruct.cli import run
from open_instruct.records import UserError, read_json, read_sidecar, sidecar_path
from open_instruct.study import Study, load_study

IDENTITY_OF = {
    "metrics.json": ("model_id", "eval_set", "format", "protocol", "kind", "role"),
    "json": ("model_id",),
}
SUITE_METRICS = ("acc", "acc_raw", "acc_per_token", "acc_per_char", "acc_uncond")


@dataclass(frozen=True)
class Args:
    study: Path | None = None
    """Take only the models and evaluations of this study, and list what is missing (default: all there is)."""


@dataclass(frozen=True)
class Measurement:
    """One finished metrics file."""

    path: Path
    identity: Mapping[str, Any]
    content: Mapping[str, Any]


def main(args: Args) -> None:
    study = load_study(args.study) if args.study else None
    predictions, unfinished_predictions = read_measurements(paths.base_dir() / "output" / "predictions", "metrics.json")
    suites, unfinished_suites = read_measurements(paths.base_dir() / "eval_results" / "eval_pipeline", "json")
    missing = unfinished_predictions + unfinished_suites
    if study:
        expected_predictions, expected_suites = expected_files(study)
        missing = missing_from(expected_predictions, predictions) + missing_from(expected_suites, suites)
        predictions = [m for m in predictions if m.path in expected_predictions]
        suites = [m for m in suites if m.path in expected_suites]
    require_measurements(predictions, suites)

    rows = name_series([*performance_rows(predictions), *suite_rows(suites)])
    performance = table_of(row for row in rows if row["kind"] != "suite")
    differences = compare_all(performance, cells_of(predictions, performance), checkpoints_of(study, performance))
    differences = as_table(sorted(differences, key=difference_order), DIFFERENCE_COLUMNS)

    folder, arguments = paths.results_dir(), {"study": str(args.study) if args.study else None}
    from_predictions = {paths.relative(m.path): m.path for m in predictions}
    from_suites = {paths.relative(m.path): m.path for m in suites}
    official = table_of(row for row in rows if row["kind"] == "suite")
    write_table(folder / PERFORMANCE_TABLE, performance, from_predictions, arguments)
    write_table(folder / SUITE_TABLE, official, from_suites, arguments)
    write_table(folder / DIFFERENCE_TABLE, differences, from_predictions, arguments)
    summary = summarise_changes(select(differences, comparison=FINE_TUNED_MINUS_BASE), performance)
    write_table(folder / SUMMARY_TABLE, summary, from_predictions, arguments)
    write_table(folder / MISSING_TABLE, as_table(missing, MISSING_COLUMNS), {}, arguments)
    for row in missing:
        print(f"missing: {row['model_id']} on {row['eval dataset']}: {row['reason']} ({row['file']})")


def read_measurements(folder: Path, ending: str) -> tuple[list[Measurement], list[dict[str, Any]]]:
    """The finished files of a folder, by name, and rows of missing.csv for those that are not finished.

    Raises UserError where a file has not the fields of its kind.
    """
    measurements, unfinished = [], []
    for path in sorted(folder.glob(f"*.{ending}")):
        if path.name.endswith(".meta.json"):
            continue
        if not sidecar_path(path).is_file():
            row = {"model_id": None, "eval dataset": None, "reason": "unfinished: it has no sidecar"}
            unfinished.append(row | {"file": paths.relative(path)})
            continue
        content = read_json(path)
        identity = content.get("identity") or read_sidecar(path).get("identity") or {}
        absent = [key for key in IDENTITY_OF[ending] if key not in identity]
        absent += [] if "metrics" in content else ["metrics"]
        if absent:
            raise UserError(f"{path}: found no {', '.join(absent)} in it; remove it and run its stage again")
        measurements.append(Measurement(path, identity, content))
    return measurements, unfinished


def expected_files(study: Study) -> tuple[dict[Path, tuple[str, str]], dict[Path, tuple[str, str]]]:
    """Metrics files and suite files of the whole grid -> model id and name of the evaluation set."""
    predictions, suites = {}, {}
    for variant in study.variants():
        for eval_set, plan in study.evaluation.items():
            for task_format in plan.formats:
                path = paths.prediction_file(eval_set, task_format, variant.model_id, study.shots)
                name = dataset_name(eval_set, task_format)
                predictions[path.with_suffix(".metrics.json")] = (variant.model_id, name)
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


def require_measurements(predictions: Sequence[Measurement], suites: Sequence[Measurement]) -> None:
    if not predictions and not suites:
        raise UserError(
            f"no finished measurement in {paths.base_dir()}: expected output/predictions/*.metrics.json with sidecars; "
            "make them with eval/predict.py and eval/eval_pred.py, or set base_dir to where they lie"
        )


def dataset_name(eval_set: str, task_format: str) -> str:
    return eval_set if task_format == "default" else f"{eval_set}_{task_format}"


def performance_rows(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    rows = []
    for measurement in measurements:
        identity, content = model_fields(measurement.identity), measurement.content
        wanted = dict.fromkeys((content["primary"], "bits_per_byte"))
        for metric in (name for name in wanted if name in content["metrics"]):
            value = content["metrics"][metric]
            about = {key: measurement.identity[key] for key in ("eval_set", "format", "protocol", "kind", "role")}
            about |= {"shots": measurement.identity.get("shots") or 0}
            about |= {"eval dataset": dataset_name(about["eval_set"], about["format"]), "metric": metric}
            about |= {"Performance": value["mean"], "std": value["standard_error"], "n": value["n"]}
            rows.append({**identity, **about, "ci_low": value["ci_low"], "ci_high": value["ci_high"]})
    return rows


def suite_rows(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """A row for each form of accuracy; binomial standard error and Wilson interval, since items are not recorded."""
    rows = []
    for measurement in measurements:
        for result in measurement.content["metrics"]:
            found, n = result["metrics"]["rc_metrics"], result["num_instances"]
            for metric in (name for name in SUITE_METRICS if name in found):
                accuracy = found[metric]
                interval = stats.binomtest(round(accuracy * n), n).proportion_ci(0.95, method="wilson")
                about = {"eval_set": result["task"], "eval dataset": result["task"], "format": "default"}
                about |= {"kind": "suite", "role": "other", "protocol": None, "metric": metric, "n": n}
                about |= {"shots": result.get("task_options", {}).get("num_shots") or 0}
                about |= {"Performance": accuracy, "std": math.sqrt(accuracy * (1 - accuracy) / n)}
                about |= {"ci_low": float(interval.low), "ci_high": float(interval.high)}
                rows.append({**model_fields(measurement.identity), **about})
    return rows


def model_fields(identity: Mapping[str, Any]) -> dict[str, Any]:
    names = ("model_id", "family", "step", "tokens", "train_set", "epochs", "lr", "seed", "adapter")
    return {name: identity.get(name) for name in names}


def table_of(rows: Any) -> pd.DataFrame:
    """A table in a fixed order: by evaluation set, metric, series and checkpoint."""
    rows = list(rows)
    rank = {name: i for i, name in enumerate(order_checkpoints(row["checkpoint"] for row in rows))}

    def order(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["eval dataset"], row["setting"], row["metric"], row["series"], rank[row["checkpoint"]]

    return as_table(sorted(rows, key=order), PERFORMANCE_COLUMNS)


def cells_of(measurements: Sequence[Measurement], performance: pd.DataFrame) -> dict[tuple[str, str], dict[Key, Cell]]:
    """(setting, metric) -> (series, checkpoint, format) -> the per-item values.

    Raises UserError where two models claim the same place.
    """
    places = ["model_id", "eval_set", "format", "shots", "protocol"]
    columns = (performance[name] for name in (*places, "setting", "series", "checkpoint"))
    named = {tuple(values[:5]): values[5:] for values in zip(*columns, strict=True)}
    cells: dict[tuple[str, str], dict[Key, Cell]] = {}
    for measurement in measurements:
        identity, items = measurement.identity, measurement.content["items"]
        place = (*(identity.get(key) for key in places[:3]), identity.get("shots") or 0, identity.get("protocol"))
        setting, series, checkpoint = named[place]
        for metric in dict.fromkeys((measurement.content["primary"], "bits_per_byte")):
            if metric not in measurement.content["metrics"]:
                continue
            is_bits = metric == "bits_per_byte"
            values = np.asarray(items["gold_bits" if is_bits else metric], dtype=float)
            weights = np.asarray(items["gold_bytes"], dtype=float) if is_bits else None
            of_setting = cells.setdefault((setting, metric), {})
            key = (series, checkpoint, identity["format"])
            if key in of_setting:
                raise UserError(
                    f"{measurement.path}: a second model is {' '.join(key)} on {setting}; "
                    "choose one grid with --study, or move the other away"
                )
            of_setting[key] = Cell(tuple(items["id"]), values, weights)
    return cells


def checkpoints_of(study: Study | None, performance: pd.DataFrame) -> dict[str, list[str]]:
    """The checkpoints that every curve of a family should have."""
    found = found_checkpoints(performance)
    return found | {study.family: [str(step) for step in study.steps]} if study else found


def difference_order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    checkpoint = row["checkpoint"]
    position = (checkpoint == "all", checkpoint == "main", int(checkpoint) if checkpoint.isdigit() else 0)
    return row["comparison"], row["series"], row["eval dataset"], row["setting"], row["metric"], position


if __name__ == "__main__":
    run(main, Args)
