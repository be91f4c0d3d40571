"""Grids of the paper's bars: mean changes by fine-tuning over its own pairs of train and evaluation set."""

from collections.abc import Iterable, Iterator

import pandas as pd

from analysis.figures.panels import Curve, Grid, Panel
from analysis.figures.style import COLOURS, Style
from analysis.tables.columns import ALL_CHECKPOINTS
from analysis.tables.frames import Tables, groups, order_checkpoints, select, where
from analysis.tables.paper_means import ALL_PAIRS, FAMILIES_OF_TASKS, PAIRS

MEAN = "mean raw change"
LABEL = "mean change of score"
EMPTY: Grid = [[Panel("Mean changes", "")]]


def learned_when(tables: Tables) -> Grid:
    """Tasks learned in fine-tuning beside those learned in pre-training."""
    return [[over_checkpoints(title, rows, PAIRS["3"])] for title, rows in by_family(tables, "3")] or EMPTY


def transfer(tables: Tables) -> Grid:
    """Classification to generation beside generation to classification."""
    return [[over_checkpoints(title, rows, PAIRS["6"])] for title, rows in by_family(tables, "6")] or EMPTY


def other_domains(tables: Tables) -> Grid:
    """The mean over all pairs at each checkpoint, and the mean over checkpoints of each family of tasks."""
    grid = []
    for title, rows in by_family(tables, "7"):
        of_all = select(rows, checkpoint=ALL_CHECKPOINTS)
        bars = [name for name in FAMILIES_OF_TASKS if name in set(of_all["group"])]
        means = bars_of("mean over checkpoints", 1, of_all.assign(checkpoint=of_all["group"]))
        panel = Panel(title, LABEL, [means], is_change=True, x_label="family of tasks", bars=bars)
        grid.append([over_checkpoints(title, rows, [ALL_PAIRS]), panel])
    return grid or EMPTY


def by_family(tables: Tables, figure: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """The name of each family of models, where there are several, and its rows."""
    of_figure = select(tables.paper_means, figure=figure)
    several = of_figure["family"].nunique() > 1
    for (family,), rows in groups(of_figure, "family"):
        yield family if several else "", rows


def over_checkpoints(title: str, rows: pd.DataFrame, names: Iterable[str]) -> Panel:
    rows = where(rows, rows["checkpoint"] != ALL_CHECKPOINTS)
    curves = [bars_of(name, i, select(rows, group=name)) for i, name in enumerate(names)]
    return Panel(title, LABEL, curves, is_change=True, bars=order_checkpoints(rows["checkpoint"]))


def bars_of(label: str, number: int, rows: pd.DataFrame) -> Curve:
    hollow = frozenset(where(rows, rows["degenerate changes"].fillna(0) > 0)["checkpoint"])
    return Curve(label, Style(COLOURS[number], "s", "-"), rows.assign(series=label), MEAN, hollow=hollow)
