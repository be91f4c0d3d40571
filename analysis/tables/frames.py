"""Read, write, filter and order the result tables, as data frames."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from analysis.tables.columns import (
    BITS,
    DIFFERENCE_COLUMNS,
    DISTANCE_COLUMNS,
    FILES,
    GROUP_COLUMNS,
    INTERPOLATION_COLUMNS,
    LEVEL_COLUMNS,
    NOISE_COLUMNS,
    OPTIONAL,
    PAPER_MEAN_COLUMNS,
    PERFORMANCE_COLUMNS,
    PRIMARY_METRICS,
    RANK_COLUMNS,
    REAL_NUMBERS,
    SUMMARY_COLUMNS,
    VARIATION_COLUMNS,
    WHOLE_NUMBERS,
)
from open_instruct.checkpoints.family import MAIN
from open_instruct.common.artifacts import Artifact
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import atomic_write, decode

DIGITS = "%.12g"
"""The last digits of a float depend on the order of sums, and so on the number of cores."""


REQUIRED = ("performance", "suites", "levels", "differences", "missing")
"""Tables without which there are no results."""
COLUMNS = {"performance": PERFORMANCE_COLUMNS, "suites": PERFORMANCE_COLUMNS, "levels": LEVEL_COLUMNS}
COLUMNS |= {"differences": DIFFERENCE_COLUMNS, "variation": VARIATION_COLUMNS, "noise": NOISE_COLUMNS}
COLUMNS |= {"distances": DISTANCE_COLUMNS, "ranks": RANK_COLUMNS, "interpolation": INTERPOLATION_COLUMNS}
COLUMNS |= {"paper_means": PAPER_MEAN_COLUMNS}
"""Columns that are read from them."""
TEXT = ("checkpoint", "missing", "figure", "stage", "run", "replicate")
"""Columns whose values may be digits, which are no numbers."""


@dataclass(frozen=True)
class Tables:
    """All result tables of a study."""

    performance: pd.DataFrame
    suites: pd.DataFrame
    differences: pd.DataFrame
    missing: pd.DataFrame
    levels: pd.DataFrame = field(default_factory=lambda: empty_table(LEVEL_COLUMNS))
    """Scores of every series over its replicates, of `performance` and `suites`."""
    changes: pd.DataFrame = field(default_factory=lambda: empty_table(SUMMARY_COLUMNS))
    """Mean change by fine-tuning, a row for each series and evaluation."""
    groups: pd.DataFrame = field(default_factory=lambda: empty_table(GROUP_COLUMNS))
    """Mean change by fine-tuning, a row for each group of tasks and checkpoint."""
    paper_means: pd.DataFrame = field(default_factory=lambda: empty_table(PAPER_MEAN_COLUMNS))
    """Mean change by fine-tuning over the paper's own pairs; empty where they were not measured."""
    variation: pd.DataFrame = field(default_factory=lambda: empty_table(VARIATION_COLUMNS))
    """What varies, of the scores and of the gain, a row for each series, evaluation and metric."""
    noise: pd.DataFrame = field(default_factory=lambda: empty_table(NOISE_COLUMNS))
    """Sensitivity to weight noise; empty where that was not measured."""
    distances: pd.DataFrame = field(default_factory=lambda: empty_table(DISTANCE_COLUMNS))
    """Weight change by fine-tuning, a row for each layer; empty where that was not measured."""
    ranks: pd.DataFrame = field(default_factory=lambda: empty_table(RANK_COLUMNS))
    """Rank of the weight change, a row for each matrix; empty where that was not measured."""
    interpolation: pd.DataFrame = field(default_factory=lambda: empty_table(INTERPOLATION_COLUMNS))
    """Loss between base and fine-tuned weights, a row for each point; empty where that was not measured."""

    @property
    def pooled(self) -> "Tables":
        """The tables with a row for each series in place of one for each model."""
        is_suite = np.asarray(self.levels["kind"] == "suite", dtype=bool)
        return replace(self, performance=where(self.levels, ~is_suite), suites=where(self.levels, is_suite))

    @property
    def scores(self) -> pd.DataFrame:
        """Rows of `performance`, then of `suites`."""
        return stacked(self.performance, self.suites)


def read_tables(folder: Path) -> Tables:
    """The tables of a results folder.  Raises UserError where a required table, or a column, is missing."""
    found = {name: folder / file for name, file in FILES.items() if (folder / file).is_file()}
    absent = [FILES[name] for name in REQUIRED if name not in found]
    if absent:
        raise UserError(
            f"{folder}: no {', '.join(absent)}; make them with `python analysis/produce_tables.py`, or choose other "
            "tables with --study or --folder"
        )
    tables = {name: read_table(path) for name, path in found.items()}
    for name, frame in tables.items():
        if lacking := [column for column in COLUMNS.get(name, ()) if column not in frame.columns]:
            raise UserError(
                f"{found[name]}: no column {', '.join(lacking)}, so it is of another version; make the tables again "
                "with `python analysis/produce_tables.py`"
            )
    return Tables(**tables)


def table_files(folder: Path) -> dict[str, Path]:
    """Files of the tables from which findings and figures are made, by name."""
    names = ("performance", "suites", "levels", "differences", *OPTIONAL)
    return {FILES[name]: folder / FILES[name] for name in names if (folder / FILES[name]).is_file()}


def read_table(path: Path) -> pd.DataFrame:
    """Read a table that this project wrote.  Raises UserError where it is none."""
    # Only an empty cell is missing: a model or an evaluation set may well be called `none` or `NA`.
    text = dict.fromkeys(TEXT, object)
    frame = read_csv(path, keep_default_na=False, na_values=[""], dtype=text)
    try:
        return typed({str(name): frame[name].tolist() for name in frame.columns})
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{path}: {error}; make it again with `python analysis/produce_tables.py`") from error


def read_csv(path: Path, **options: Any) -> pd.DataFrame:
    """Raises UserError for a file that is no table."""
    try:
        decode(path.read_bytes(), place=str(path))  # pandas would end a cell at a NUL
        return pd.read_csv(path, **options)
    except ValueError as error:  # empty, other text than UTF-8, or rows of unequal length
        raise UserError(f"{path}: expected a CSV table, found none: {error}") from error


def as_table(rows: Iterable[Mapping[Any, Any]], columns: tuple[str, ...]) -> pd.DataFrame:
    """A frame with these columns, typed; a row that lacks one has an empty cell there."""
    rows = list(rows)
    return typed({name: [row.get(name) for row in rows] for name in columns})


def level_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of levels.csv, sorted by evaluation set, metric, series and checkpoint."""

    def order(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return row["eval dataset"], row["setting"], row["metric"], row["series"], checkpoint_order(row["checkpoint"])

    return as_table(sorted(rows, key=order), LEVEL_COLUMNS)


@cache
def empty_table(columns: tuple[str, ...]) -> pd.DataFrame:
    return as_table([], columns)


def typed(columns: Mapping[str, list[Any]]) -> pd.DataFrame:
    """A frame in which whole numbers stay whole beside empty cells, and text is object with None."""
    types: dict[str, Any] = {**dict.fromkeys(WHOLE_NUMBERS, "Int64"), **dict.fromkeys(REAL_NUMBERS, "float64")}
    cells = {name: [None if is_empty(value) else value for value in values] for name, values in columns.items()}
    return pd.DataFrame({name: pd.Series(values, dtype=types.get(name, object)) for name, values in cells.items()})


def is_empty(value: Any) -> bool:
    return value is None or value is pd.NA or value != value


def number(value: Any) -> float | None:
    """The value of a cell as a float, or None where it is empty."""
    return None if is_empty(value) else float(value)


def write_table(path: Path, frame: pd.DataFrame, inputs: Mapping[str, Path], arguments: Mapping[str, Any]) -> None:
    """Write CSV (or Parquet, by the name) with the same bytes for the same rows, and its sidecar."""
    with Artifact(path, arguments=arguments, inputs=inputs).making() as facts:
        if path.suffix == ".parquet":
            with atomic_write(path, "wb") as file:
                frame.to_parquet(file, index=False, compression="zstd")
        else:
            to_csv(frame, path)
        facts["rows"] = len(frame)
    print(f"wrote {path} ({len(frame)} rows)")


def to_csv(frame: pd.DataFrame, path: Path) -> None:
    with atomic_write(path) as file:
        frame.to_csv(file, index=False, lineterminator="\n", float_format=DIGITS)


def stacked(*frames: pd.DataFrame) -> pd.DataFrame:
    """The rows of all frames."""
    return pd.concat([frame for frame in frames if len(frame)] or frames)


def select(frame: pd.DataFrame, **equal: Any) -> pd.DataFrame:
    """The rows whose columns have these values; None stands for an empty cell, a list for any of its values."""
    mask = np.ones(len(frame), dtype=bool)
    for column, value in equal.items():
        found = frame[column]
        if value is None:
            mask &= np.asarray(found.isna(), dtype=bool)
        elif found.dtype == object and not isinstance(value, list):
            # The same as isin, without its overhead: small tables are selected from very often.
            mask &= np.asarray(found.to_numpy() == value, dtype=bool)
        else:
            mask &= np.asarray(found.isin(value if isinstance(value, list) else [value]), dtype=bool)
    return cast(pd.DataFrame, frame.loc[mask])


def where(frame: pd.DataFrame, mask: Any) -> pd.DataFrame:
    """The rows for which `mask`, a Series or array (rows,), is true."""
    return cast(pd.DataFrame, frame.loc[np.asarray(mask, dtype=bool)])


def groups(frame: pd.DataFrame, *columns: str) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """The values of `columns`, sorted, and the rows that have them."""
    for values, group in frame.groupby(list(columns), sort=True):
        yield cast(tuple[str, ...], values), group


def base_series(frame: pd.DataFrame, family: str) -> str | None:
    """The series of a family's base models, the most frequent one if there are several; None without base models."""
    found = cast(pd.Series, frame["series"][(frame["family"] == family) & frame["train_set"].isna()])
    return str(found.mode().iloc[0]) if len(found) else None


def checkpoint_order(name: str) -> tuple[bool, int]:
    """Sort key: ascending by step, `main` last."""
    return (True, 0) if name == MAIN else (False, int(name))


def order_checkpoints(names: Iterable[str]) -> list[str]:
    """Each name once, ascending by step, `main` last."""
    return sorted(set(names), key=checkpoint_order)


def found_checkpoints(frame: pd.DataFrame) -> dict[str, list[str]]:
    """All checkpoints in a table, by family."""
    found: dict[str, set[str]] = {}
    for family, checkpoint in set(zip(frame["family"], frame["checkpoint"], strict=True)):
        if isinstance(family, str):
            found.setdefault(family, set()).add(checkpoint)
    return {family: order_checkpoints(found[family]) for family in sorted(found)}


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows by ascending checkpoint."""
    order = sorted(range(len(frame)), key=[checkpoint_order(name) for name in frame["checkpoint"]].__getitem__)
    return cast(pd.DataFrame, frame.iloc[order])


def relation(role: str, train_set: str) -> str:
    """Relation of an evaluation set to a train set: in-domain, out-of-domain, own text, pre-training or other."""
    kind, _, of = role.partition(" of ")
    if kind == "own text" and of != train_set:
        return "pre-training"
    return kind if of in ("", train_set) else "other"


def related(frame: pd.DataFrame, wanted: str) -> pd.DataFrame:
    """The rows of fine-tuned models whose evaluation set has this relation to their train set."""
    pairs = zip(frame["role"], frame["train_set"], strict=True)
    return where(frame, [train_set is not None and relation(role, train_set) == wanted for role, train_set in pairs])


def primary_only(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of each evaluation's primary metric.

    An evaluation without that of its kind has declared another one, or was made elsewhere: it keeps all its rows but
    bits per byte, and these too where it has no others.
    """
    is_primary = frame["metric"] == frame["kind"].map(PRIMARY_METRICS.get)
    has_primary = set(frame.loc[is_primary, "eval dataset"])
    has_others = set(frame.loc[frame["metric"] != BITS, "eval dataset"])
    is_other = (frame["metric"] != BITS) | ~frame["eval dataset"].isin(list(has_others))
    return where(frame, is_primary | (is_other & ~frame["eval dataset"].isin(list(has_primary))))


def usual(frame: pd.DataFrame) -> pd.DataFrame:
    """Without rare settings and recipes, where the usual one is there too; the appendix figures show all."""
    columns = ("setting", "eval_set", "kind", "family", "train_set", "series")
    rows = list(zip(*(frame[name].tolist() for name in columns), strict=True))
    # A suite task may have the name of an evaluation set.
    plain_settings = {(eval_set, kind) for setting, eval_set, kind, *_ in rows if setting == eval_set}
    plain_models = {(family, train_set) for *_, family, train_set, series in rows if not is_varied(series)}
    is_usual = [
        (setting == eval_set or (eval_set, kind) not in plain_settings)
        and not (is_varied(series) and (family, train_set) in plain_models)
        for setting, eval_set, kind, family, train_set, series in rows
    ]
    return where(frame, np.array(is_usual, dtype=bool))


def is_varied(series: str) -> bool:
    """Whether a series is named by more than its train set: `mnli lr=2e-05`."""
    return "=" in series
