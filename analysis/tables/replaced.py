"""Tables that were put into a results folder in place of its own.

The authors' notebook draws its figures from results/analysis/all_perf_table.csv, which users replace by their own. The
other files of the folder are then of another table, and must not be read beside it.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.tables.columns import FILES, PERFORMANCE_COLUMNS, TIDY_TABLE
from analysis.tables.frames import DIGITS, is_empty, read_table, select, where
from analysis.tables.released import is_own
from open_instruct.checkpoints.family import MAIN
from open_instruct.common.artifacts import has_files
from open_instruct.common.errors import UserError
from open_instruct.common.sidecars import content_hash, find_sidecar

NEEDED = ("model_id", "eval dataset", "eval_set", "format", "metric", "kind", "role", "Performance")
NEEDED += ("family", "series", "setting", "checkpoint")
"""Columns that have something in every row."""
CHECKPOINT = re.compile(rf"[0-9]{{1,12}}|{MAIN}")
COMPARED = ["model_id", "eval dataset", "metric", "Performance"]


def is_replaced(folder: Path) -> bool:
    """Whether all_perf_table.csv is not the one that the other files of the folder were made with.

    That is so if it has the authors' columns, or other rows than measurements.parquet.  Raises UserError where only
    official_eval_table.csv was replaced.
    """
    performance, suites = folder / FILES["performance"], folder / FILES["suites"]
    if not performance.is_file():
        return False
    found = not is_own(performance) or has_other_rows(performance)
    if not found and suites.is_file() and (not is_own(suites) or has_other_rows(suites)):
        raise UserError(
            f"{suites} was replaced, and {performance} was not; replace both, or give the folder of the new tables to "
            "`python analysis/report.py --released FOLDER`"
        )
    return found


def has_other_rows(path: Path) -> bool:
    """Whether a table has other rows than the folder's measurements.parquet; False where there is none."""
    tidy = path.with_name(TIDY_TABLE)
    if not tidy.is_file() or is_made_from(path, tidy):
        return False
    table = read_table(path)
    if not {*COMPARED} <= {*table.columns}:
        return True
    measured = pd.read_parquet(tidy, columns=[*COMPARED, "kind"])
    is_suites = path.name == FILES["suites"]
    expected = select(measured, kind="suite") if is_suites else where(measured, measured["kind"] != "suite")
    return counted(table) != counted(expected)


def is_made_from(path: Path, tidy: Path) -> bool:
    """Whether a table is as it was made from `tidy`, by its sidecar: then it need not be read to be compared."""
    made = find_sidecar(path)
    return made is not None and has_files(path, made["files"]) and made["inputs"] == {TIDY_TABLE: content_hash(tidy)}


def counted(rows: pd.DataFrame) -> Counter[tuple[str, ...]]:
    *names, scores = (rows[name] for name in COMPARED)
    return Counter(zip(*names, (DIGITS % score for score in scores), strict=True))


def own_rows(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Path]]:
    """Rows of this project's own tables, and the tables that they came from, by name.

    Suites beside a replaced table are read only if they were replaced too.  Raises UserError where a column is missing.
    """
    performance, suites = folder / FILES["performance"], folder / FILES["suites"]
    files = {performance.name: performance}
    if suites.is_file() and is_own(suites) and has_other_rows(suites) == has_other_rows(performance):
        files[suites.name] = suites
    elif suites.is_file():
        print(f"not read: {suites}, which is not of the {performance.name} beside it")
    rows = []
    for path in files.values():
        frame = read_table(path)
        if absent := [column for column in PERFORMANCE_COLUMNS if column not in frame.columns]:
            raise UserError(
                f"{path}: no column {', '.join(absent)}, so it is of another version; make it again with "
                "`python analysis/produce_tables.py`"
            )
        records = frame.to_dict("records")
        found = [{name: None if is_empty(value) else value for name, value in row.items()} for row in records]
        require_complete(path, found)
        rows += found
    return rows, files


def require_complete(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Raises UserError, with every problem, where a row lacks what says which score it is, or contradicts another."""
    problems, units = list[str](), dict[str, Any]()
    for line, row in enumerate(rows, start=2):
        if absent := [name for name in NEEDED if row[name] is None]:
            problems.append(f"line {line}: nothing in {', '.join(absent)}")
        elif not CHECKPOINT.fullmatch(str(row["checkpoint"])):
            problems.append(f"line {line}: checkpoint {row['checkpoint']}, expected a step or {MAIN}")
        elif not math.isfinite(row["Performance"]):
            problems.append(f"line {line}: Performance {row['Performance']}, expected a number")
        elif (row["unit"] is None) != (row["replicate"] is None):
            problems.append(f"line {line}: expected unit and replicate, or neither")
        elif units.setdefault(row["series"], row["unit"]) != row["unit"]:
            problems.append(f"line {line}: unit {row['unit']}, of the same series before {units[row['series']]}")
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise UserError(f"{path}: {shown}; make it again with `python analysis/produce_tables.py`")
