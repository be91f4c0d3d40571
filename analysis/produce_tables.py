"""Gather every measurement into tables.

Reads    output/predictions/*.metrics.json and eval_results/eval_pipeline/*.json, with their sidecars, and with --study
         the study, for what should be there; or with --released the authors' released tables.
Writes   results/analysis/measurements.parquet     a row for each model, evaluation and metric, and its source
         results/analysis/all_perf_table.csv      the same rows without the suites
         results/analysis/official_eval_table.csv the ranked-classification suites
         results/analysis/paired_differences.csv  models compared on the same items
         results/analysis/change_summary.csv      mean change and slope over checkpoints
         results/analysis/group_summary.csv       the same over tasks that improve with pre-training, and others
         results/analysis/missing.csv             what the study asks for and is not there
         and perturbation.csv, weight_distances.csv, of what eval/perturb_weights.py and eval/weight_distance.py found
The same measurements give the same bytes. Files that have not changed are not read again.

    python analysis/produce_tables.py --study scripts/studies/tiny.yaml
    python analysis/produce_tables.py --released ../released_tables
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import pandas as pd
from scipy import stats

from analysis.inference.contrasts import (
    FINE_TUNED_MINUS_BASE,
    Contrast,
    Evaluator,
    Key,
    compare_all,
)
from analysis.inference.paired import Cell, evaluate_paired
from analysis.inference.unpaired import evaluate_unpaired
from analysis.tables.curve_names import name_series
from analysis.tables.frames import (
    DIFFERENCE_COLUMNS,
    DIFFERENCE_TABLE,
    GROUP_TABLE,
    MISSING_COLUMNS,
    MISSING_TABLE,
    PERFORMANCE_COLUMNS,
    PERFORMANCE_TABLE,
    SUITE_TABLE,
    SUMMARY_TABLE,
    TIDY_TABLE,
    Tables,
    as_table,
    found_checkpoints,
    groups,
    order_checkpoints,
    primary_only,
    select,
    write_table,
)
from analysis.tables.measurements import (
    Measurement,
    dataset_name,
    expected_files,
    missing_from,
    read_measurements,
)
from analysis.tables.released import read_released
from analysis.tables.summaries import summarise_changes, summarise_groups, task_groups
from analysis.tables.weight_tables import write_weight_tables
from open_instruct.common import paths
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.study.config import Study
from open_instruct.study.loading import load_study
from open_instruct.study.variants import IDENTITY_FIELDS, MAIN

SUITE_METRICS = ("acc", "acc_raw", "acc_per_token", "acc_per_char", "acc_uncond")
Cells = dict[tuple[str, str], dict[Key, Any]]
"""(setting, metric) -> (series, checkpoint, format) -> what a model did there."""


@dataclass(frozen=True)
class Args:
    study: Path | None = None
    """Take only the models and evaluations of this study, and list what is missing (default: all there is)."""
    released: Path | None = None
    """Folder of the authors' released tables, to be read in place of one's own measurements."""


@dataclass(frozen=True)
class Gathered:
    rows: list[dict[str, Any]]
    """Of performance, named; kind `suite` among them."""
    evaluate: Evaluator
    missing: list[dict[str, Any]]
    inputs: Mapping[str, Path]
    """Small files that were read; of measurements, the tidy table names file and hash in each row."""
    is_released: bool = False


def main(args: Args) -> None:
    if args.study and args.released:
        raise UserError("--study and --released exclude each other: released tables belong to no study file; drop one")
    study = load_study(args.study) if args.study else None
    gathered = gather_released(args.released) if args.released else gather(study)
    tables = tables_from(gathered, study)
    performance, official, missing = tables.performance, tables.suites, tables.missing

    folder = paths.results_dir()
    arguments = {key: str(value) if value else None for key, value in vars(args).items()}
    tidy = pd.concat([frame for frame in (performance, official) if len(frame)])
    write_table(folder / TIDY_TABLE, tidy, gathered.inputs, arguments)
    write = partial(write_table, inputs={TIDY_TABLE: folder / TIDY_TABLE}, arguments=arguments)
    write(folder / PERFORMANCE_TABLE, performance)
    write(folder / SUITE_TABLE, official)
    write(folder / DIFFERENCE_TABLE, tables.differences)
    changes = select(tables.differences, comparison=FINE_TUNED_MINUS_BASE)
    write(folder / SUMMARY_TABLE, summarise_changes(changes, tidy))
    write(folder / GROUP_TABLE, summarise_groups(tidy))
    write(folder / MISSING_TABLE, missing)
    write_weight_tables(tables, folder, arguments)
    for row in missing.to_dict("records"):
        print(f"missing: {row['model_id']} on {row['eval dataset']}: {row['reason']} ({row['file']})")


def tables_from(gathered: Gathered, study: Study | None = None) -> Tables:
    rows = in_groups(gathered.rows)
    performance = table_of(row for row in rows if row["kind"] != "suite")
    official = table_of(row for row in rows if row["kind"] == "suite")
    compared = pd.concat([frame for frame in (performance, primary_only(official)) if len(frame)])
    differences = compare_all(compared, gathered.evaluate, checkpoints_of(study, compared))
    differences = as_table(sorted(differences, key=difference_order), DIFFERENCE_COLUMNS)
    missing = gathered.missing + (missing_in_curves(performance) if gathered.is_released else [])
    return Tables(performance, official, differences, as_table(missing, MISSING_COLUMNS))


def gather(study: Study | None) -> Gathered:
    predictions, suites, missing = read_measurements()
    if study:
        expected_predictions, expected_suites = expected_files(study)
        missing = missing_from(expected_predictions, predictions) + missing_from(expected_suites, suites)
        predictions = [m for m in predictions if m.path in expected_predictions]
        suites = [m for m in suites if m.path in expected_suites]
    require_measurements(predictions, suites)
    rows = name_series([*performance_rows(predictions), *suite_rows(suites)])
    cells, levels = cells_of([*predictions, *suites], rows), levels_of(rows)

    def evaluate(setting: str, metric: str, contrasts: Sequence[Contrast]) -> list[dict[str, Any]]:
        if (setting, metric) in cells:
            return evaluate_paired(contrasts, cells[setting, metric])
        return evaluate_unpaired(contrasts, levels[setting, metric])

    return Gathered(rows, evaluate, missing, {})


def gather_released(folder: Path) -> Gathered:
    rows, files = read_released(folder)
    levels = levels_of(rows)

    def evaluate(setting: str, metric: str, contrasts: Sequence[Contrast]) -> list[dict[str, Any]]:
        return evaluate_unpaired(contrasts, levels[setting, metric])

    return Gathered(rows, evaluate, [], files, is_released=True)


def levels_of(rows: Iterable[Mapping[str, Any]]) -> Cells:
    """Mean and standard error of everything that was measured."""
    levels: Cells = {}
    for row in rows:
        key = (row["series"], row["checkpoint"], row["format"])
        levels.setdefault((row["setting"], row["metric"]), {})[key] = (row["Performance"], row["std"])
    return levels


def in_groups(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with `group`: as the released tables' importer says, else by the rule of `task_groups`."""
    if any(row.get("group") for row in rows):
        return rows
    found = task_groups(table_of(rows))
    return [{**row, "group": found.get((row["family"], row["setting"], row["kind"]))} for row in rows]


def missing_in_curves(performance: pd.DataFrame) -> list[dict[str, Any]]:
    """Of released tables no study says what should be there: a curve with most checkpoints lacks the others."""
    checkpoints, rows = found_checkpoints(performance), []
    for (family, series, dataset, setting, metric), curve in groups(
        performance, "family", "series", "eval dataset", "setting", "metric"
    ):
        found = set(curve["checkpoint"])
        if len(found) >= len(checkpoints[family]) / 2:
            for name in checkpoints[family]:
                if name not in found:
                    reason = f"no row of {series} at {name} on {setting} ({metric}); the curve has {len(found)}"
                    rows.append({"model_id": f"{series} at {name}", "eval dataset": dataset, "reason": reason})
    return [{**row, "file": None} for row in rows]


def require_measurements(predictions: Sequence[Measurement], suites: Sequence[Measurement]) -> None:
    if not predictions and not suites:
        raise UserError(
            f"no finished measurement in {paths.base_dir()}: expected output/predictions/*.metrics.json with sidecars; "
            "make them with eval/predict.py and eval/eval_pred.py, or set base_dir to where they lie"
        )


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
            about |= {"ci_low": value["ci_low"], "ci_high": value["ci_high"]}
            rows.append({**identity, **about, **source_of(measurement)})
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
                rows.append({**model_fields(measurement.identity), **about, **source_of(measurement)})
    return rows


def source_of(measurement: Measurement) -> dict[str, str]:
    return {"source": measurement.source}


def model_fields(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {name: identity.get(name) for name in IDENTITY_FIELDS}


def table_of(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """A table in a fixed order: by evaluation set, metric, series and checkpoint."""
    rows = list(rows)
    rank = {name: i for i, name in enumerate(order_checkpoints(row["checkpoint"] for row in rows))}

    def order(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["eval dataset"], row["setting"], row["metric"], row["series"], rank[row["checkpoint"]]

    return as_table(sorted(rows, key=order), PERFORMANCE_COLUMNS)


def cells_of(measurements: Sequence[Measurement], rows: Sequence[Mapping[str, Any]]) -> Cells:
    """The per-item values of every model.  Raises UserError where two models claim the same place."""
    named = {(row["source"], row["metric"]): row for row in rows}
    cells: Cells = {}
    for measurement in measurements:
        for metric, cell in measurement.cells.items():
            row = named[measurement.source, metric]
            of_setting = cells.setdefault((row["setting"], metric), {})
            key = (row["series"], row["checkpoint"], row["format"])
            if key in of_setting:
                raise UserError(
                    f"{measurement.path}: a second model is {' '.join(key)} on {row['setting']}; "
                    "choose one grid with --study, or move the other away"
                )
            of_setting[key] = cast(Cell, cell)
    return cells


def checkpoints_of(study: Study | None, performance: pd.DataFrame) -> dict[str, list[str]]:
    """The checkpoints that every curve of a family should have."""
    found = found_checkpoints(performance)
    steps_by_family = study.steps_by_family() if study else {}
    named = {f: [MAIN if step is None else str(step) for step in steps] for f, steps in steps_by_family.items()}
    return found | named


def difference_order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    checkpoint = row["checkpoint"]
    position = (checkpoint == "all", checkpoint == "main", int(checkpoint) if checkpoint.isdigit() else 0)
    return row["comparison"], row["series"], row["eval dataset"], row["setting"], row["metric"], position


if __name__ == "__main__":
    run(main, Args)
