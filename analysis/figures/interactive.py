"""The study's figures as data for Plotly: the same panels as the printed ones, with hover text and curves to hide.

Each panel is a plot of its own. The page selects whether the axis shows indices, steps or tokens of the checkpoints,
and whether it is logarithmic, so every panel has all of them.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from analysis.figures.panels import Curve, Grid, Panel
from analysis.figures.study_figures import FIGURES, caption_of
from analysis.tables.frames import Tables, number, order_checkpoints
from open_instruct.checkpoints.family import MAIN

SYMBOLS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross"}
SYMBOLS |= {"X": "x", "<": "triangle-left", ">": "triangle-right", "*": "star"}


def interactive_figures(grids: Mapping[str, Grid], tables: Tables) -> list[dict[str, Any]]:
    """Name, title, caption and panels of every figure, as JSON values."""
    tokens = tokens_of(tables)
    figures = []
    for name, grid in grids.items():
        panels = [panel_data(panel, tokens) for row in grid for panel in row if panel.curves]
        about = {"name": name, "title": FIGURES[name].title, "caption": caption_of(name, grid)}
        figures.append(about | {"panels": panels})
    return figures


def tokens_of(tables: Tables) -> dict[str, int]:
    """Checkpoint -> tokens; where those of two families are not known to be equal, the first one's."""
    both = tables.scores[["checkpoint", "tokens"]].dropna()
    return {str(name): int(count) for name, count in reversed(list(both.itertuples(index=False, name=None)))}


def panel_data(panel: Panel, tokens: dict[str, int]) -> dict[str, Any]:
    found = [str(name) for curve in panel.curves for name in curve.rows["checkpoint"]]
    checkpoints = list(panel.bars or panel.path) or order_checkpoints([*panel.checkpoints, *found])
    steps = {name: int(name) for name in checkpoints if name.isdigit()}
    return {
        "title": panel.title,
        "y_label": panel.y_label,
        "x_label": panel.x_label,
        "is_change": panel.is_change,
        "is_log": panel.is_log,
        "own_legend": panel.own_legend,
        "bars": bool(panel.bars),
        "is_path": bool(panel.path),
        "checkpoints": checkpoints,
        "steps": places(checkpoints, steps),
        "tokens": places(checkpoints, tokens),
        "curves": [curve_data(curve, checkpoints) for curve in panel.curves],
    }


def places(checkpoints: list[str], known: dict[str, int]) -> list[float | None]:
    """Position of each checkpoint; `main`, whose step is not known, follows the last by the mean distance."""
    numbers = [known[name] for name in checkpoints if name in known]
    gap = (numbers[-1] - numbers[0]) / (len(numbers) - 1) if len(numbers) > 1 else 1.0
    after_last = numbers[-1] + gap if numbers else None
    return [known.get(name, after_last if name == MAIN else None) for name in checkpoints]


def curve_data(curve: Curve, checkpoints: list[str]) -> dict[str, Any]:
    rows = {str(row["checkpoint"]): row for row in curve.rows.to_dict("records")}

    def column(name: str) -> list[float | None]:
        return [number(rows[c].get(name)) if c in rows else None for c in checkpoints]

    return {
        "label": curve.label,
        "colour": curve.style.colour,
        "symbol": SYMBOLS[curve.style.marker],
        "dash": "solid" if curve.style.line == "-" else "dash",
        "expected": [curve.expects(name) for name in checkpoints],
        "x": column(curve.x) if curve.x != "checkpoint" else None,
        "y": column(curve.value),
        "low": column("ci_low"),
        "high": column("ci_high"),
        "each": [by_checkpoint(found, curve.value, checkpoints) for found in curve.each],
        "hollow": [name in curve.hollow for name in checkpoints],
    }


def by_checkpoint(rows: pd.DataFrame, value: str, checkpoints: list[str]) -> list[float | None]:
    found = dict(zip(rows["checkpoint"], rows[value], strict=True))
    return [number(found.get(name)) for name in checkpoints]


def labels_of(figures: Iterable[dict[str, Any]]) -> list[str]:
    return sorted({curve["label"] for figure in figures for panel in figure["panels"] for curve in panel["curves"]})
