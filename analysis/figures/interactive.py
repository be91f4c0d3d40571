"""The study's figures as data for Plotly: the same panels as the printed ones, with values to hover and curves to hide.

Each panel becomes a plot of its own. A checkpoint stands at its index, its step or its tokens; which, and whether on a
log axis, is chosen on the page, so every curve carries all of them.
"""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from analysis.figures.panels import Curve, Panel
from analysis.plotting import figures_of
from analysis.tables.frames import Tables, order_checkpoints

SYMBOLS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross"}
SYMBOLS |= {"X": "x", "<": "triangle-left", ">": "triangle-right", "*": "star"}


def interactive_figures(tables: Tables) -> list[dict[str, Any]]:
    """Every figure: name, title, caption and panels, as JSON values."""
    tokens = tokens_of(tables)
    figures = []
    for name, described in figures_of(tables):
        panels = [panel_data(panel, tokens) for row in described.grid(tables) for panel in row if panel.curves]
        figures.append({"name": name, "title": described.title, "caption": described.caption, "panels": panels})
    return figures


def tokens_of(tables: Tables) -> dict[str, int]:
    """Checkpoint -> tokens; where two families count differently, the first one's."""
    both = pd.concat([tables.performance, tables.suites])[["checkpoint", "tokens"]].dropna()
    return {str(name): int(count) for name, count in reversed(list(both.itertuples(index=False, name=None)))}


def panel_data(panel: Panel, tokens: dict[str, int]) -> dict[str, Any]:
    found = [str(name) for curve in panel.curves for name in curve.rows["checkpoint"]]
    checkpoints = order_checkpoints([*panel.checkpoints, *found])
    return {
        "title": panel.title,
        "y_label": panel.y_label,
        "x_label": panel.x_label,
        "is_change": panel.is_change,
        "own_legend": panel.own_legend,
        "checkpoints": checkpoints,
        "steps": places(checkpoints, {name: int(name) for name in checkpoints if name != "main"}),
        "tokens": places(checkpoints, tokens),
        "curves": [curve_data(curve, checkpoints) for curve in panel.curves],
    }


def places(checkpoints: list[str], known: dict[str, int]) -> list[float | None]:
    """Where each checkpoint stands; `main`, whose step is not known, one mean distance behind the last."""
    numbers = [known[name] for name in checkpoints if name in known]
    gap = (numbers[-1] - numbers[0]) / (len(numbers) - 1) if len(numbers) > 1 else 1.0
    behind = numbers[-1] + gap if numbers else None
    return [known.get(name, behind if name == "main" else None) for name in checkpoints]


def curve_data(curve: Curve, checkpoints: list[str]) -> dict[str, Any]:
    rows = {str(row["checkpoint"]): row for row in curve.rows.to_dict("records")}

    def column(name: str) -> list[float | None]:
        return [number(rows[c].get(name)) if c in rows else None for c in checkpoints]

    return {
        "label": curve.label,
        "colour": curve.style.colour,
        "symbol": SYMBOLS[curve.style.marker],
        "dash": "solid" if curve.style.line == "-" else "dash",
        "x": column(curve.x) if curve.x != "checkpoint" else None,
        "y": column(curve.value),
        "low": column("ci_low"),
        "high": column("ci_high"),
        "source": [rows[c].get("source") if c in rows else None for c in checkpoints],
    }


def number(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)


def labels_of(figures: Iterable[dict[str, Any]]) -> list[str]:
    return sorted({curve["label"] for figure in figures for panel in figure["panels"] for curve in panel["curves"]})
