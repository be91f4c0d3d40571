"""Curves over checkpoints, in panels, in grids: the content of a figure before it is drawn."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.figures.style import Style, styles_of
from analysis.inference.degenerate_results import constant_gold
from analysis.tables.columns import BITS, MACRO_F1, METRIC_LABELS, Comparison
from analysis.tables.frames import Tables, found_checkpoints, groups, in_order, related, select, usual, where

MOST_COLUMNS = 5


@dataclass(frozen=True)
class Curve:
    label: str
    style: Style
    rows: pd.DataFrame
    """Checkpoints with value, ci_low, ci_high."""
    value: str = "Performance"
    """Column on the y axis."""
    x: str = "checkpoint"
    """Column on the x axis, where the panel has an `x_label`."""
    each: Sequence[pd.DataFrame] = ()
    """Rows of each replicate (checkpoint and value), drawn as thin pale lines; none where there is one."""
    interval: str = ""
    """What its intervals are over, where that is not the replicates and items of its rows."""
    hollow: frozenset[str] = frozenset()
    """Checkpoints at which the model gives one answer for nearly all items."""
    expected: frozenset[str] = frozenset()
    """Checkpoints of its family, where its panel also has others; none: all of them."""

    def expects(self, checkpoint: str) -> bool:
        return not self.expected or checkpoint in self.expected


@dataclass(frozen=True)
class Panel:
    title: str
    y_label: str
    curves: Sequence[Curve] = ()
    checkpoints: Sequence[str] = ()
    """Those expected of its curves; a curve that lacks one is named in the panel."""
    is_change: bool = False
    """Draw a line at zero."""
    x_label: str = ""
    """Of a panel whose x axis is something else than checkpoints."""
    is_log: bool = False
    """That axis is logarithmic, and lines join the points along it."""
    note: str = ""
    """Said below the figure."""
    bars: Sequence[str] = ()
    """Bars instead of curves, over these values of the column `checkpoint`, which may be names of other things."""
    path: Sequence[str] = ()
    """Points of the x axis that are joined in this order: values of the column `checkpoint`, as of `bars`."""
    own_legend: bool = False
    """Whether the legend is below the panel, since its curves are in no other."""


Grid = list[list[Panel]]


def label_of(rows: pd.DataFrame, series: str) -> str:
    return series if len(select(rows, train_set=None)) == len(rows) else f"fine-tuned: {series}"


def level_panel(tables: Tables, title: str, rows: pd.DataFrame) -> Panel:
    """Scores of every series in `rows`, which are of one evaluation and metric."""
    label = METRIC_LABELS[str(rows["metric"].iloc[0])]
    return series_panel(tables, title, rows, label)


def change_panel(tables: Tables, title: str, rows: pd.DataFrame) -> Panel:
    """Changes of every series in `rows` of paired_differences.csv, which are of one evaluation and metric."""
    label = f"change of {METRIC_LABELS[str(rows['metric'].iloc[0])]}"
    return series_panel(tables, title, rows, label, value="difference", is_change=True)


def series_panel(
    tables: Tables, title: str, rows: pd.DataFrame, label: str, *, value: str = "Performance", is_change: bool = False
) -> Panel:
    styles = styles_of(tables)
    curves = [
        Curve(label_of(group, name), styles[name], in_order(group), value) for (name,), group in groups(rows, "series")
    ]
    is_degenerate = set(rows["kind"]) == {"labels"} and set(rows["setting"]) & set(constant_gold(tables.performance))
    mark = " (degenerate)" if is_degenerate else ""
    return Panel(title + mark, label, curves, checkpoints_of(tables, rows), is_change=is_change)


def fine_tuned_changes(tables: Tables, wanted: str) -> pd.DataFrame:
    """Fine-tuned minus base, in the default format, where the evaluation set is `wanted` of the train set."""
    of_each = usual(select(tables.differences, comparison=Comparison.CHANGE, format="default"))
    return related(where(of_each, of_each["kind"] != "suite"), wanted)


def in_domain(performance: pd.DataFrame) -> list[tuple[str, str, str]]:
    """(series, setting, family) of fine-tuned models and the evaluation sets of their train set."""
    found = related(performance, "in-domain")[["series", "setting", "family"]].dropna().drop_duplicates()
    return sorted(found.itertuples(index=False, name=None))


def metrics_of(rows: pd.DataFrame) -> list[str]:
    """The primary one, then bits per byte."""
    return sorted(set(rows["metric"]) - {MACRO_F1}, key=lambda name: (name == BITS, name))


def checkpoints_of(tables: Tables, rows: pd.DataFrame) -> list[str]:
    found = found_checkpoints(tables.scores)
    return [name for family in sorted(set(rows["family"].dropna())) for name in found[family]]


def in_rows(columns: Sequence[Sequence[Panel]], empty: str) -> Grid:
    """Columns of (primary metric, bits per byte) as rows of at most MOST_COLUMNS panels."""
    depth = max((len(column) for column in columns), default=0)
    rows = []
    # Six columns become three and three, not five and one.
    width = math.ceil(len(columns) / max(1, math.ceil(len(columns) / MOST_COLUMNS)))
    for start in range(0, len(columns), max(1, width)):
        block = columns[start : start + width]
        rows += [[column[i] for column in block if i < len(column)] for i in range(depth)]
    return rows or [[Panel(empty, "")]]


def wrapped(panels: Sequence[Panel], empty: str) -> Grid:
    return in_rows([[panel] for panel in panels], empty)
