"""What a figure shows, before it is drawn: curves over checkpoints, in panels, in rows.

Base models are black; every fine-tuned series keeps one colour and marker through all figures. Colours are those of
Okabe and Ito, which readers with colour-blindness can tell apart.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, cast

import pandas as pd
from scipy import stats

from analysis.inference import contrasts
from analysis.inference.degenerate_results import unsound_settings
from analysis.tables.frames import (
    METRIC_LABELS,
    Tables,
    found_checkpoints,
    groups,
    in_order,
    relation,
    select,
    usual,
    where,
)

BASE_COLOUR = "#000000"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
BITS = "bits_per_byte"
FORMAT_COLOURS = ("#332288", "#882255", "#999933", "#44AA99")
"""Of Paul Tol's muted scheme: none of them is a series' colour."""
MARKERS = ("s", "^", "D", "v", "P", "X", "<", ">", "*")
MOST_COLUMNS = 5
Z_90 = float(stats.norm.ppf(0.95))


class Style(NamedTuple):
    colour: str
    marker: str
    line: Literal["-", "--"]


@dataclass(frozen=True)
class Curve:
    label: str
    style: Style
    rows: pd.DataFrame
    """Checkpoints with value, ci_low, ci_high."""
    value: str = "Performance"
    """Column that is drawn."""
    x: str = "checkpoint"
    """Column that it is drawn against, where the panel has an `x_label`."""


@dataclass(frozen=True)
class Panel:
    title: str
    y_label: str
    curves: Sequence[Curve] = ()
    checkpoints: Sequence[str] = ()
    """Those that every curve should have; a curve that lacks one is named in the panel."""
    is_change: bool = False
    """Draw a line at zero."""
    x_label: str = ""
    """Of a panel that is not over checkpoints, but over numbers that the curves hold."""
    own_legend: bool = False
    """Below the panel: its curves are in no other."""


Grid = list[list[Panel]]


def style_of(names: Iterable[str], base: Iterable[str] = (), *, colours: Sequence[str] = COLOURS) -> dict[str, Style]:
    """Base models are black dots; the others take colours and markers in their order, dashed beyond the last colour."""
    styles = dict.fromkeys(base, Style(BASE_COLOUR, "o", "-"))
    for number, name in enumerate(name for name in dict.fromkeys(names) if name not in styles):
        line = "-" if number < len(colours) else "--"
        styles[name] = Style(colours[number % len(colours)], MARKERS[number % len(MARKERS)], line)
    return styles


def styles_of(tables: Tables) -> dict[str, Style]:
    """One style a series, through all figures."""
    frames = (tables.performance, tables.suites, tables.differences)
    both = pd.concat([pd.DataFrame(frame[["series", "train_set"]]).drop_duplicates() for frame in frames])
    bases = sorted({str(name) for name in select(pd.DataFrame(both), train_set=None)["series"] if "=" not in name})
    # What differs from the usual comes last, so that the usual ones have the plain colours.
    return style_of(sorted(set(both["series"]), key=lambda name: ("=" in name, name)), bases)


def label_of(rows: pd.DataFrame, series: str) -> str:
    return series if len(select(rows, train_set=None)) == len(rows) else f"fine-tuned: {series}"


def on_axis(tables: Tables, axis: str) -> Tables:
    """The tables as they are, or with tokens in place of steps: `checkpoint` then holds the number of tokens."""
    if axis == "step":
        return tables
    both = pd.concat([tables.performance, tables.suites]).dropna(subset=["tokens", "family"])
    keys = zip(both["family"], both["checkpoint"], strict=True)
    tokens = {key: str(int(count)) for key, count in zip(keys, both["tokens"], strict=True)}

    def renamed(frame: pd.DataFrame) -> pd.DataFrame:
        pairs = zip(frame["family"], frame["checkpoint"], strict=True)
        names = [tokens.get((family, name), name) for family, name in pairs]
        return frame.assign(checkpoint=pd.Series(names, index=frame.index, dtype=object))

    return replace(tables, **{name: renamed(frame) for name, frame in vars(tables).items() if "checkpoint" in frame})


def level_panel(tables: Tables, title: str, rows: pd.DataFrame) -> Panel:
    """Every series of `rows`, which are of one evaluation and metric."""
    styles = styles_of(tables)
    curves = [Curve(label_of(group, name), styles[name], in_order(group)) for (name,), group in groups(rows, "series")]
    metric = str(rows["metric"].iloc[0])
    return Panel(title + unsound_mark(tables, rows), METRIC_LABELS[metric], curves, checkpoints_of(tables, rows))


def change_panel(tables: Tables, title: str, rows: pd.DataFrame, *, is_change: bool = True) -> Panel:
    """Every series of `rows` of paired_differences.csv, which are of one evaluation and metric."""
    styles = styles_of(tables)
    curves = [
        Curve(label_of(group, name), styles[name], in_order(group), value="difference")
        for (name,), group in groups(rows, "series")
    ]
    label = METRIC_LABELS[str(rows["metric"].iloc[0])]
    y_label = f"change of {label}" if is_change else f"spread of {label}"
    return Panel(title + unsound_mark(tables, rows), y_label, curves, checkpoints_of(tables, rows), is_change=is_change)


def fine_tuned_changes(tables: Tables, wanted: str) -> pd.DataFrame:
    """Fine-tuned minus base, in the default format, where the evaluation set is `wanted` of the train set."""
    of_each = usual(select(tables.differences, comparison=contrasts.FINE_TUNED_MINUS_BASE, format="default"))
    of_each = where(of_each, of_each["kind"] != "suite")
    is_wanted = [relation(role, train_set) == wanted for role, train_set in of_each[["role", "train_set"]].to_numpy()]
    return cast(pd.DataFrame, of_each.loc[is_wanted])


def fine_tuned_on(performance: pd.DataFrame, wanted: str) -> list[tuple[str, str, str]]:
    """(series, setting, family) of fine-tuned models and the evaluation sets that are `wanted` of their train set."""
    columns = ["series", "setting", "family", "train_set", "role"]
    found = performance[columns].dropna().drop_duplicates()
    rows = sorted(found.itertuples(index=False, name=None))
    return [(series, setting, family) for series, setting, family, name, role in rows if relation(role, name) == wanted]


def metrics_of(rows: pd.DataFrame) -> list[str]:
    """The primary one, then bits per byte."""
    return sorted(set(rows["metric"]), key=lambda name: (name == BITS, name))


def all_scores(tables: Tables) -> pd.DataFrame:
    return pd.concat([tables.performance, tables.suites])


def unsound_mark(tables: Tables, rows: pd.DataFrame) -> str:
    if set(rows["kind"]) != {"labels"}:
        return ""
    return " (unsound)" if set(rows["setting"]) & set(unsound_settings(tables.performance)) else ""


def checkpoints_of(tables: Tables, rows: pd.DataFrame) -> list[str]:
    found = found_checkpoints(pd.concat([tables.performance, tables.suites]))
    return [name for family in sorted(set(rows["family"].dropna())) for name in found[family]]


def with_90(rows: pd.DataFrame) -> pd.DataFrame:
    """The same rows with 90% intervals, from their standard errors."""
    half = Z_90 * rows["std"].astype(float)
    return rows.assign(ci_low=rows["difference"] - half, ci_high=rows["difference"] + half)


def in_rows(columns: Sequence[Sequence[Panel]], empty: str) -> Grid:
    """Columns of (primary metric, bits per byte) as rows of at most MOST_COLUMNS panels."""
    depth = max((len(column) for column in columns), default=0)
    rows = []
    # Six columns stand as three and three, not as five and one.
    width = math.ceil(len(columns) / max(1, math.ceil(len(columns) / MOST_COLUMNS)))
    for start in range(0, len(columns), max(1, width)):
        block = columns[start : start + width]
        rows += [[column[i] for column in block if i < len(column)] for i in range(depth)]
    return rows or [[Panel(empty, "")]]


def wrapped(panels: Sequence[Panel], empty: str) -> Grid:
    return in_rows([[panel] for panel in panels], empty)
