"""Build and write all result tables: gathered rows, paired differences, summaries, weights."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.inference.contrasts import Contrast, compare_all
from analysis.inference.paired import evaluate_paired
from analysis.inference.unpaired import evaluate_unpaired, levels_of
from analysis.tables.columns import (
    ALL_CHECKPOINTS,
    DIFFERENCE_COLUMNS,
    FILES,
    MACRO_F1,
    MISSING_COLUMNS,
    OPTIONAL,
    TIDY_TABLE,
)
from analysis.tables.curve_names import labels_of_runs
from analysis.tables.frames import (
    Tables,
    as_table,
    checkpoint_order,
    found_checkpoints,
    primary_only,
    stacked,
    table_files,
    where,
    write_table,
)
from analysis.tables.gathering import Gathered, gather_measurements, gather_released, table_of
from analysis.tables.latex import write_latex_tables
from analysis.tables.summaries import summarise_changes, summarise_groups
from analysis.tables.weight_tables import weight_tables
from open_instruct.checkpoints.families import step_name
from open_instruct.common.ownership import remove_own_file
from open_instruct.study.config import Study
from open_instruct.study.own_results import require_own_results


def produce_tables(study: Study | None, released: Path | None, folder: Path) -> None:
    """Write the tables of a study, of all finished measurements, or of the authors' released tables to `folder`.

    Raises UserError where the results are another study's.
    """
    if study:
        require_own_results(study)
    gathered = gather_released(released) if released else gather_measurements(study)
    tables = build_tables(gathered, study)
    tables = replace(
        tables,
        changes=summarise_changes(tables.differences, tables.scores),
        groups=summarise_groups(tables.scores),
        **weight_tables(tables.scores, study),
    )
    arguments = {
        "study": str(study.file.resolve()) if study else None,
        "released": str(released) if released else None,
    }
    tidy = folder / TIDY_TABLE
    write_table(tidy, tables.scores, gathered.inputs, arguments)
    for name, file in FILES.items():
        frame: pd.DataFrame = getattr(tables, name)
        if len(frame) or name not in OPTIONAL:
            write_table(folder / file, frame, {} if name in OPTIONAL else {TIDY_TABLE: tidy}, arguments)
        else:
            remove_own_file(folder / file)
    write_latex_tables(tables, folder / "tables", {TIDY_TABLE: tidy, **table_files(folder)})
    for row in tables.missing.to_dict("records"):
        print(f"missing: {row['model_id']} on {row['eval dataset']}: {row['reason']} ({row['file']})")


def build_tables(gathered: Gathered, study: Study | None = None) -> Tables:
    """The tables of performance and of paired differences, in memory."""
    levels = levels_of(gathered.rows)

    def evaluate(setting: str, metric: str, contrasts: Sequence[Contrast]) -> list[dict[str, Any]]:
        if (setting, metric) in gathered.cells:
            return evaluate_paired(contrasts, gathered.cells[setting, metric])
        return evaluate_unpaired(contrasts, levels[setting, metric])

    performance = table_of(row for row in gathered.rows if row["kind"] != "suite")
    suites = table_of(row for row in gathered.rows if row["kind"] == "suite")
    missing = as_table(gathered.missing, MISSING_COLUMNS)
    compared = stacked(where(performance, performance["metric"] != MACRO_F1), primary_only(suites))
    configs = study.family_configs() if study else {}
    expected = {
        label: [step_name(step) for step in config.steps]
        for family, config in configs.items()
        for label in labels_of_runs(family, config.runs)
    }
    differences = compare_all(compared, evaluate, found_checkpoints(compared) | expected)
    return Tables(performance, suites, as_table(sorted(differences, key=row_order), DIFFERENCE_COLUMNS), missing)


def row_order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    name = row["checkpoint"]
    position = (True, (True, 0)) if name == ALL_CHECKPOINTS else (False, checkpoint_order(name))
    return row["comparison"], row["series"], row["eval dataset"], row["setting"], row["metric"], position
