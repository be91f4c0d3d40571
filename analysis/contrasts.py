"""Comparisons of models on the same items, with intervals: the rows of paired_differences.csv.

A cell is one model's answers to one evaluation set in one format. A linear contrast adds and subtracts cells item by
item and resamples the items, so what a hard item does to every model cancels. The spread over formats (largest minus
smallest) is no sum over items: there the items are resampled jointly for all cells.
A contrast with a missing cell is not computed from the others: its row says what is missing.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.tidy import ALL_CHECKPOINTS, base_series, groups, order_checkpoints, select
from eval.stats import NUM_RESAMPLES, paired_difference, resampled_means

FINE_TUNED_MINUS_BASE = "fine-tuned - base"
FINE_TUNED_MINUS_BASE_MEAN = "fine-tuned - base, mean over checkpoints"
FINE_TUNED_MINUS_BASE_GROWTH = "fine-tuned - base, last - first checkpoint"
STEP_MINUS_PREVIOUS = "checkpoint - previous checkpoint"
LAST_MINUS_FIRST = "last - first checkpoint"
SPREAD = "spread over formats"
SPREAD_GROWTH = "spread over formats, last - first checkpoint"
SPREAD_FINE_TUNED_MINUS_BASE = "spread over formats, fine-tuned - base, mean over checkpoints"

Key = tuple[str, str, str]
"""Series, checkpoint, format."""
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """Per-item values of one model, all of shape (items,)."""

    ids: tuple[str, ...]
    values: Array
    weights: Array | None
    """Bytes, for bits per byte; None where every item counts the same."""


@dataclass(frozen=True)
class Contrast:
    comparison: str
    series: str
    checkpoint: str
    """The later one where two are compared; `all` where several are averaged."""
    reference: str
    terms: Mapping[Key, float]


def compare_all(
    performance: pd.DataFrame,
    cells: Mapping[tuple[str, str], Mapping[Key, Cell]],
    checkpoints: Mapping[str, Sequence[str]],
) -> list[dict[str, Any]]:
    """Every comparison of every series, setting and metric, as rows of paired_differences.csv.

    `cells` holds (setting, metric) -> key -> cell; `checkpoints` the expected ones of each family, ascending.
    """
    rows = []
    for (setting, metric), group in groups(performance, "setting", "metric"):
        formats = sorted(set(group["format"]), key=lambda name: (name != "default", name))
        for (series,), of_series in groups(group, "series"):
            family, train_set = of_series[["family", "train_set"]].iloc[0]
            if family is None:
                continue
            base = base_series(performance, family)
            about = {"family": family, "train_set": train_set, "setting": setting, "metric": metric}
            about |= {name: group[name].iloc[0] for name in ("eval_set", "kind", "role")}
            for task_format in formats:
                name = select(group, format=task_format)["eval dataset"].iloc[0]
                for contrast in linear_contrasts(series, base, task_format, checkpoints[family]):
                    result = evaluate(contrast, cells[setting, metric])
                    rows.append(row_of(contrast, about | {"format": task_format, "eval dataset": name}, result))
            if len(formats) > 1:
                for contrast, terms in spread_contrasts(series, base, formats, checkpoints[family]):
                    result = evaluate_spread(terms, cells[setting, metric])
                    about_all = about | {"format": " ".join(formats), "eval dataset": about["eval_set"]}
                    rows.append(row_of(contrast, about_all, result))
    return rows


def linear_contrasts(series: str, base: str | None, task_format: str, checkpoints: Sequence[str]) -> Iterator[Contrast]:
    """What is asked of one series in one format; `checkpoints` ascend."""
    first, last = checkpoints[0], checkpoints[-1]

    def cell(name: str, checkpoint: str) -> Key:
        return (name, checkpoint, task_format)

    if len(checkpoints) > 1:
        terms = {cell(series, last): 1.0, cell(series, first): -1.0}
        yield Contrast(LAST_MINUS_FIRST, series, last, first, terms)
    if series == base:
        for earlier, later in itertools.pairwise(checkpoints):
            terms = {cell(series, later): 1.0, cell(series, earlier): -1.0}
            yield Contrast(STEP_MINUS_PREVIOUS, series, later, earlier, terms)
        return
    if base is None:
        return
    for checkpoint in checkpoints:
        terms = {cell(series, checkpoint): 1.0, cell(base, checkpoint): -1.0}
        yield Contrast(FINE_TUNED_MINUS_BASE, series, checkpoint, base, terms)
    share = 1 / len(checkpoints)
    terms = {cell(name, c): sign * share for c in checkpoints for name, sign in ((series, 1), (base, -1))}
    yield Contrast(FINE_TUNED_MINUS_BASE_MEAN, series, ALL_CHECKPOINTS, base, terms)
    if len(checkpoints) > 1:
        terms = {cell(series, last): 1.0, cell(base, last): -1.0, cell(series, first): -1.0, cell(base, first): 1.0}
        yield Contrast(FINE_TUNED_MINUS_BASE_GROWTH, series, last, base, terms)


Spreads = list[tuple[float, list[Key]]]
"""Coefficient, and the cells between whose largest and smallest mean the spread lies."""


def spread_contrasts(
    series: str, base: str | None, formats: Sequence[str], checkpoints: Sequence[str]
) -> Iterator[tuple[Contrast, Spreads]]:
    def spread(name: str, checkpoint: str, coefficient: float = 1.0) -> tuple[float, list[Key]]:
        return coefficient, [(name, checkpoint, task_format) for task_format in formats]

    for checkpoint in checkpoints:
        yield Contrast(SPREAD, series, checkpoint, "", {}), [spread(series, checkpoint)]
    if len(checkpoints) > 1:
        first, last = checkpoints[0], checkpoints[-1]
        yield Contrast(SPREAD_GROWTH, series, last, first, {}), [spread(series, last), spread(series, first, -1.0)]
    if base is not None and series != base:
        share = 1 / len(checkpoints)
        pairs = [spread(name, c, sign * share) for c in checkpoints for name, sign in ((series, 1), (base, -1))]
        yield Contrast(SPREAD_FINE_TUNED_MINUS_BASE, series, ALL_CHECKPOINTS, base, {}), pairs


def evaluate(contrast: Contrast, cells: Mapping[Key, Cell]) -> dict[str, Any]:
    problem = incomparable(list(contrast.terms), cells)
    if problem:
        return {"missing": problem}
    first = cells[next(iter(contrast.terms))]
    plus = sum_of([c * cells[key].values for key, c in contrast.terms.items() if c > 0])
    minus = sum_of([-c * cells[key].values for key, c in contrast.terms.items() if c < 0])
    result = paired_difference(plus, minus, first.weights)
    return {
        "difference": result.mean,
        "std": result.standard_error,
        "ci_low": result.ci_low,
        "ci_high": result.ci_high,
        "p_value": result.p_value,
        "n": result.n,
    }


def evaluate_spread(spreads: Spreads, cells: Mapping[Key, Cell], seed: int = 0) -> dict[str, Any]:
    """A spread has no p-value of its own, since it cannot be negative; a difference of spreads has one."""
    keys = [key for _, group in spreads for key in group]
    problem = incomparable(keys, cells)
    if problem:
        return {"missing": problem}
    # One seed for every cell: each resample then draws the same items for all of them.
    means = {key: resampled_with_first(cells[key], seed=seed) for key in keys}
    found = sum_of([c * np.ptp(np.stack([means[key] for key in group]), axis=0) for c, group in spreads])
    point, resampled = found[0], found[1:]
    low, high = np.quantile(resampled, [0.025, 0.975])
    tail = min((resampled <= 0).sum(), (resampled >= 0).sum())
    return {
        "difference": float(point),
        "std": float(resampled.std(ddof=1)),
        "ci_low": float(low),
        "ci_high": float(high),
        "p_value": float(min(1.0, 2 * (tail + 1) / (len(resampled) + 1))) if len(spreads) > 1 else None,
        "n": len(cells[keys[0]].ids),
    }


def resampled_with_first(cell: Cell, *, seed: int) -> Array:
    """The mean of all items, then the mean of each resample.  -> (1 + resamples,)"""
    weights = weights_of(cell)
    resampled = resampled_means(cell.values, weights, seed=seed, num_resamples=NUM_RESAMPLES)
    return np.concatenate([[cell.values.sum() / weights.sum()], resampled])


def weights_of(cell: Cell) -> Array:
    return np.ones_like(cell.values) if cell.weights is None else cell.weights


def incomparable(keys: Sequence[Key], cells: Mapping[Key, Cell]) -> str | None:
    """Why these cells cannot be compared, or None."""
    absent = [key for key in keys if key not in cells]
    if absent:
        return "missing: " + "; ".join(" ".join(key) for key in dict.fromkeys(absent))
    first = cells[keys[0]]
    for key in keys[1:]:
        if cells[key].ids != first.ids:
            return f"other items: {len(first.ids)} in {' '.join(keys[0])}, {len(cells[key].ids)} in {' '.join(key)}"
        if not np.array_equal(weights_of(first), weights_of(cells[key])):
            return f"other completions in {' '.join(keys[0])} and {' '.join(key)}"
    return None


def sum_of(arrays: Sequence[Array]) -> Array:
    return np.sum(np.stack(arrays), axis=0)


def row_of(contrast: Contrast, about: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    names = {"comparison": contrast.comparison, "series": contrast.series, "reference": contrast.reference or None}
    return {**names, "checkpoint": contrast.checkpoint, **about, "missing": None, **result}


def found_checkpoints(performance: pd.DataFrame) -> dict[str, list[str]]:
    """All checkpoints that a table holds, for each family."""
    return {family: order_checkpoints(group["checkpoint"]) for (family,), group in groups(performance, "family")}
