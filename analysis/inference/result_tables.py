"""Build and write all result tables: gathered rows, paired differences, summaries, weights."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from analysis.inference.comparisons import Plan, compare_all
from analysis.inference.degenerate_results import one_answer, why_degenerate
from analysis.inference.item_values import ItemValues
from analysis.inference.levels import pooled_levels
from analysis.inference.variation import variation_table
from analysis.tables.columns import (
    ALL_CHECKPOINTS,
    DIFFERENCE_COLUMNS,
    FILES,
    MACRO_F1,
    MISSING_COLUMNS,
    OPTIONAL,
    PRIMARY_METRICS,
    TIDY_TABLE,
)
from analysis.tables.frames import (
    Tables,
    as_table,
    checkpoint_order,
    empty_table,
    level_table,
    read_tables,
    table_files,
    write_table,
)
from analysis.tables.gathering import (
    Gathered,
    Key,
    expected_runs,
    gather_measurements,
    gather_released,
    key_of,
    table_of,
)
from analysis.tables.latex import write_latex_tables
from analysis.tables.paper_means import paper_means
from analysis.tables.released import fault_of
from analysis.tables.replaced import is_replaced
from analysis.tables.replicates import family_of_run
from analysis.tables.scoring import score_predictions
from analysis.tables.summaries import summarise_changes, summarise_groups, task_groups
from analysis.tables.weight_tables import weight_tables
from open_instruct.checkpoints.families import curve_family, step_name
from open_instruct.common.ownership import remove_own_file
from open_instruct.study.config import Study
from open_instruct.study.own_results import require_own_results


def produce_tables(study: Study | None, released: Path | None, folder: Path, *, skip_scoring: bool = False) -> None:
    """Write the tables of a study, of all finished measurements, or of the authors' released tables to `folder`.

    Predictions without metrics, or that changed since, are scored before, unless `skip_scoring` is set.
    Raises UserError where the results are another study's.
    """
    if study:
        require_own_results(study)
    failed = {} if released or skip_scoring else score_predictions(study)
    gathered = gather_released(released) if released else gather_measurements(study, failed)
    tables = build_tables(gathered, study)
    weights = weight_tables(tables.scores, study)
    tables = replace(with_summaries(tables), **weights)
    arguments = {
        "study": str(study.file.resolve()) if study else None,
        "released": str(released) if released else None,
    }
    tidy = folder / TIDY_TABLE
    write_table(tidy, tables.scores, gathered.inputs, arguments)
    for name, file in FILES.items():
        frame: pd.DataFrame = getattr(tables, name)
        if len(frame) or name not in OPTIONAL:
            write_table(folder / file, frame, {} if name in weights else {TIDY_TABLE: tidy}, arguments)
        else:
            remove_own_file(folder / file)
    write_latex_tables(tables, folder / "tables", {TIDY_TABLE: tidy, **table_files(folder)})
    for row in tables.missing.to_dict("records"):
        names = [row[key] for key in ("model_id", "eval dataset") if row[key]]
        file = f" ({row['file']})" if row["file"] else ""
        print(f"missing: {' on '.join(names) or 'scores'}: {row['reason']}{file}")


class Results(NamedTuple):
    tables: Tables
    files: Mapping[str, Path]
    """Those that the tables were read from, by name."""
    is_replaced: bool
    """Whether all_perf_table.csv was put there in place of the folder's own: then no other file of it is of use."""


def load_results(folder: Path) -> Results:
    """The tables of a results folder, all made of all_perf_table.csv (and its suites) where that was replaced."""
    if not is_replaced(folder):
        return Results(read_tables(folder), table_files(folder), False)
    gathered = gather_released(folder)
    names = " and ".join(gathered.inputs)
    print(f"note: {names} in {folder} was replaced, so all other tables and findings are made of it, not read")
    return Results(with_summaries(build_tables(gathered)), gathered.inputs, True)


def build_tables(gathered: Gathered, study: Study | None = None) -> Tables:
    """The tables of performance, of levels over replicates, and of paired differences, in memory."""
    plan = plan_of(study)
    gathered = replace(gathered, rows=with_degenerate(gathered))
    constant: dict[tuple[str, str], set[tuple[Key, str]]] = {}
    for row in gathered.rows:
        if row["degenerate"]:
            constant.setdefault((row["setting"], row["metric"]), set()).add((key_of(row), row["replicate"]))
    cells = {place: ItemValues(of_place, constant.get(place, ())) for place, of_place in gathered.cells.items()}
    levels = level_table(pooled_levels(gathered.rows, cells, plan))
    if not any(row.get("group") for row in gathered.rows):
        gathered, levels = grouped(gathered, levels)
    rows = gathered.rows
    differences = as_table(sorted(compare_all(compared(rows), cells, plan), key=row_order), DIFFERENCE_COLUMNS)
    return replace(scores_of(gathered), differences=differences, levels=levels)


def with_summaries(tables: Tables) -> Tables:
    return replace(
        tables,
        changes=summarise_changes(tables.differences, tables.levels),
        groups=summarise_groups(tables.levels),
        paper_means=paper_means(tables),
        variation=variation_table(tables),
    )


def scores_of(gathered: Gathered) -> Tables:
    """The tables of single models, without comparisons."""
    performance = table_of(row for row in gathered.rows if row["kind"] != "suite")
    suites = table_of(row for row in gathered.rows if row["kind"] == "suite")
    return Tables(performance, suites, empty_table(DIFFERENCE_COLUMNS), as_table(gathered.missing, MISSING_COLUMNS))


def with_degenerate(gathered: Gathered) -> list[dict[str, Any]]:
    """The rows with `degenerate`: why a score says nothing about its model, or None.

    Of scores without items all that can be known of a table counts; with items only that a model gives one answer, and
    that the prompts hold the gold. Tables of this project say it themselves.
    """
    if all("degenerate" in row for row in gathered.rows):
        return gathered.rows
    if gathered.cells:
        faults = [fault_of(row) for row in gathered.rows]
        pairs = zip(gathered.rows, faults, strict=True)
        return [row | {"degenerate": fault.why if fault else one_answer(row)} for row, fault in pairs]
    why = why_degenerate(scores_of(gathered))
    return [row | {"degenerate": why.get(row["source"])} for row in gathered.rows]


def compared(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of metrics that models are compared by: of a suite task its primary one, where it has that."""
    primary = PRIMARY_METRICS["suite"]
    has_primary = {row["eval dataset"] for row in rows if row["kind"] == "suite" and row["metric"] == primary}
    return [
        row
        for row in rows
        if row["metric"] != MACRO_F1
        and (row["kind"] != "suite" or row["metric"] == primary or row["eval dataset"] not in has_primary)
    ]


def grouped(gathered: Gathered, levels: pd.DataFrame) -> tuple[Gathered, pd.DataFrame]:
    """Both with the group of each task; released tables come with the authors' own."""
    group_of = task_groups(levels)
    rows = [row | {"group": group_of.get((row["family"], row["setting"], row["kind"]))} for row in gathered.rows]
    keys = zip(levels["family"], levels["setting"], levels["kind"], strict=True)
    return replace(gathered, rows=rows), levels.assign(group=pd.Series(map(group_of.get, keys), levels.index, object))


def plan_of(study: Study | None) -> Plan:
    if study is None:
        return Plan({}, {}, {})
    steps: dict[str, list[str]] = {}
    for one in study.checkpoints():
        of_family = steps.setdefault(curve_family(one.family, one.stage), [])
        if step_name(one.step) not in of_family:
            of_family.append(step_name(one.step))
    runs = expected_runs(study)
    # Runs of another architecture are families of their own, with the same checkpoints.
    steps |= {family_of_run(family, run): steps[family] for family, names in runs.items() for run in names}
    return Plan(steps, runs, study.margins)


def row_order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    name = row["checkpoint"]
    position = (True, (True, 0)) if name == ALL_CHECKPOINTS else (False, checkpoint_order(name))
    return row["comparison"], row["series"], row["eval dataset"], row["setting"], row["metric"], position
