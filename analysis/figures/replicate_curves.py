"""Complete the curves of a grid: one thin curve for each replicate, hollow points of models with constant predictions.

The grids are made of the pooled tables, a row for each series. The scores of single models are looked up here, for
curves of scores and of fine-tuned minus base.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.panels import Curve, Grid
from analysis.inference.degenerate_results import ACCURACIES, one_answer
from analysis.tables.columns import BITS, MACRO_F1, TOP_SCORE, Comparison
from analysis.tables.frames import Tables, found_checkpoints, where
from analysis.tables.replicates import SHARED

Place = tuple[Any, ...]
"""Series, evaluation (setting, kind, format, metric) and checkpoint."""
EVALUATION = ("setting", "kind", "format", "metric")
COURSES = ("checkpoint", "tokens")
"""Columns of the x axis along which a curve follows pre-training."""
MOST_NAMED = 3
"""Curves that are named in a note; of more than these, those with the most usual interval are the others."""


@dataclass(frozen=True)
class Models:
    """Scores of single models."""

    scores: Mapping[Place, Mapping[str, float]]
    """Place -> replicate -> score, the mean over seeds of one run."""
    constant: frozenset[Place]
    """Where the accuracy is that of a model, in any replicate, with one answer for nearly all items."""
    checkpoints: Mapping[str, Sequence[str]]
    """Of each family."""


def models_of(tables: Tables) -> Models:
    several: dict[Place, dict[str, list[float]]] = {}
    constant: set[Place] = set()
    for row in tables.scores.to_dict("records"):
        place = place_of(row, row["series"])
        replicate = SHARED if row["replicate"] is None else row["replicate"]
        several.setdefault(place, {}).setdefault(replicate, []).append(float(row["Performance"]))
        if one_answer(row):
            constant.add(place)
    means = {place: {name: float(np.mean(found)) for name, found in each.items()} for place, each in several.items()}
    return Models(means, frozenset(constant), found_checkpoints(tables.scores))


def place_of(row: Mapping[Any, Any], series: str) -> Place:
    return series, *(row[name] for name in EVALUATION), row["checkpoint"]


def completed(grid: Grid, models: Models) -> Grid:
    """The grid with thin curves, hollow points, and intervals that stay on the scale of their metric."""
    return [
        [replace(panel, curves=[of_family(complete(curve, models), models) for curve in panel.curves]) for panel in row]
        for row in grid
    ]


def of_family(curve: Curve, models: Models) -> Curve:
    """The curve, of which only the checkpoints of its own family are expected."""
    if curve.x not in COURSES:
        return curve
    families = curve.rows["family"].dropna() if "family" in curve.rows else ()
    return replace(
        curve, expected=frozenset(name for family in families for name in models.checkpoints.get(family, ()))
    )


def complete(curve: Curve, models: Models) -> Curve:
    is_score = curve.value == "Performance"
    is_change = "comparison" in curve.rows and set(curve.rows["comparison"]) == {Comparison.CHANGE}
    if curve.x not in COURSES or not (is_score or is_change) or not {"series", *EVALUATION} <= set(curve.rows):
        return curve
    each: dict[str, dict[str, float]] = {}
    hollow = set()
    rows = []
    for row in curve.rows.to_dict("records"):
        name = row["checkpoint"]
        of_row = scores_of(row, models, is_change=is_change)
        for replicate, score in of_row.items():
            each.setdefault(replicate, {})[name] = score
        if is_hollow(row, models, is_change=is_change):
            hollow.add(name)
            # Its change is in no table, as it takes part in no comparison: drawn without an interval.
            if is_change and of_row:
                row |= {curve.value: float(np.mean(list(of_row.values()))), "ci_low": None, "ci_high": None}
        rows.append(row | on_scale(row, is_change=is_change))
    several = sorted(each.items()) if len(each) > 1 and curve.x == "checkpoint" else []
    thin = [pd.DataFrame({"checkpoint": list(found), curve.value: list(found.values())}) for _, found in several]
    kept = pd.DataFrame(rows, columns=curve.rows.columns)
    kept = kept.astype(dict.fromkeys((curve.value, "ci_low", "ci_high"), float))
    return replace(curve, rows=kept, each=thin, hollow=frozenset(hollow))


def scores_of(row: Mapping[Any, Any], models: Models, *, is_change: bool) -> dict[str, float]:
    """Replicate -> score, or fine-tuned minus base; all seeds of one run share its base model."""
    scores = models.scores.get(place_of(row, row["series"]), {})
    if not is_change:
        return dict(scores)
    base = models.scores.get(place_of(row, row["reference"]), {})
    shared = base.get(SHARED)
    pairs = {name: (score, base.get(name, shared)) for name, score in scores.items()}
    return {name: tuned - of_base for name, (tuned, of_base) in pairs.items() if of_base is not None}


def is_hollow(row: Mapping[Any, Any], models: Models, *, is_change: bool) -> bool:
    if row["metric"] not in (*ACCURACIES, MACRO_F1):
        return False
    names = (row["series"], row["reference"]) if is_change else (row["series"],)
    metrics = (row["metric"],) if row["metric"] != MACRO_F1 else ACCURACIES
    return any(place_of({**row, "metric": metric}, name) in models.constant for name in names for metric in metrics)


def on_scale(row: Mapping[Any, Any], *, is_change: bool) -> dict[str, float]:
    """The interval, within what the metric can be."""
    top = np.inf if row["metric"] == BITS else TOP_SCORE.get(row["metric"], 1.0)
    low = -top if is_change else 0.0
    return {name: np.clip(float(row[name]), low, top) for name in ("ci_low", "ci_high") if row[name] is not None}


def interval_note(grid: Grid) -> str:
    """Over what the 95% intervals of a figure are, what its thin lines are, and which points are hollow."""
    panels = [panel for row in grid for panel in row]
    curves = [curve for panel in panels for curve in panel.curves]
    parts = intervals_of(curves)
    if any(panel.bars for panel in panels):
        sentences = [f"Error bars are means of the pairs' 95% intervals over {'; over '.join(parts)}."]
        is_hatched = any(curve.hollow for curve in curves)
        return " ".join([*sentences, *(["Hatched: some scores say nothing about their models."] if is_hatched else [])])
    sentences = [f"Bars are 95% intervals over {'; over '.join(parts)}."] if parts else []
    if units := sorted({unit for curve in curves if curve.each for unit in curve.rows["unit"] if unit}):
        sentences.append(f"Thin lines are single {' and '.join(f'{unit}s' for unit in units)}.")
    if any(curve.hollow for curve in curves):
        sentences.append("Hollow points are models that give one answer for nearly all items.")
    return " ".join([*sentences, *dict.fromkeys(panel.note for panel in panels if panel.note)])


def intervals_of(curves: Sequence[Curve]) -> list[str]:
    """What intervals are over, each with the series for which it is where there are several."""
    names: dict[str, set[str]] = {}
    for curve in curves:
        if "ci_low" not in curve.rows:
            continue
        measured = where(curve.rows, curve.rows[curve.value].notna() & curve.rows["ci_low"].notna())
        if curve.interval and len(measured):
            names.setdefault(curve.interval, set()).update([curve.label] if curve.x == "tokens" else [])
        elif {"unit", "replicates", "series"} <= set(measured):
            of_rows = where(measured, measured["replicates"].notna())[["unit", "replicates", "series"]]
            for unit, replicates, series in of_rows.itertuples(index=False, name=None):
                names.setdefault(over(unit, int(replicates)), set()).add(series)
    several = len(names) > 1
    others = max(names.values(), key=len, default=set())
    return [
        f"{what} ({'all others' if of is others and len(of) > MOST_NAMED else ', '.join(sorted(of))})"
        if several and of
        else what
        for what, of in sorted(names.items())
    ]


def over(unit: Any, replicates: int) -> str:
    return f"{replicates} {unit}s and items" if replicates > 1 else "items only: one run"
