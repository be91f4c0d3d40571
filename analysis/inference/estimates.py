"""Effect, interval and test of contrasts, with replicates and items as crossed random effects (crossed.py).

Where the items of a model are not recorded, as in published tables, the errors of two models are taken as independent,
and those of replicates as shared: both are conservative for the same items.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from analysis.inference.contrasts import Contrast
from analysis.inference.crossed import Effects, crossed_effects, replicate_effect
from analysis.inference.item_values import ItemValues, named
from analysis.tables.columns import BITS, TOP_SCORE
from analysis.tables.gathering import Key
from analysis.tables.replicates import SHARED

CHUNK_ELEMENTS = 20_000_000
FLOAT_NOISE = 1e-12
LOG_ODDS_METRICS = frozenset({"accuracy", "acc", "exact_match"})
Array = npt.NDArray[np.float64]
Level = tuple[float, float, float]
"""Mean, standard error and number of items; NaN where error or number were not published."""
NO_ERROR = "no standard error was published"
OF_EFFECTS = {
    "difference": "mean",
    "std": "standard_error",
    "df": "df",
    "ci_low": "ci_low",
    "ci_high": "ci_high",
    "p_value": "p_value",
    "skew": "skew",
    "next_low": "next_low",
    "next_high": "next_high",
    "item_error": "item_error",
    "replicate_sd": "replicate_sd",
    "replicates": "replicates",
    "n": "items",
}
"""Column -> field of Effects."""


def estimate_with_items(contrasts: Sequence[Contrast], items: ItemValues, metric: str) -> list[dict[str, Any]]:
    """ESTIMATE_COLUMNS, `difference` and `log_odds` of each contrast, or `missing`: why there are none."""
    results: list[dict[str, Any]] = [{} for _ in contrasts]
    alike: dict[tuple[tuple[str, ...], int], list[int]] = {}
    for i, contrast in enumerate(contrasts):
        if problem := items.problem(contrast.terms, contrast.replicates):
            results[i] = {"missing": problem}
        else:
            first = items.cell(next(iter(contrast.terms)), contrast.replicates[0])
            alike.setdefault((contrast.replicates, items.items[first]), []).append(i)
    for (replicates, _), positions in alike.items():
        keys = list(dict.fromkeys(key for i in positions for key in contrasts[i].terms))
        values = items.values(keys, replicates)
        shared = items.about(keys, replicates)
        num_rows = max(1, CHUNK_ELEMENTS // values[0].size)
        for start in range(0, len(positions), num_rows):
            chunk = positions[start : start + num_rows]
            matrix = coefficients([contrasts[i].terms for i in chunk], keys)
            combined = without_noise((matrix @ values.reshape(len(keys), -1)).reshape(-1, *values.shape[1:]), values)
            effects = crossed_effects(combined, shared.weights, shared.clusters)
            limits = limits_of(matrix, metric)
            for i, row in zip(chunk, rows_of(effects, limits), strict=True):
                results[i] = row
        if metric in LOG_ODDS_METRICS:
            means = values.sum(axis=2) / values.shape[2]  # (keys, replicates)
            levels = dict(zip(keys, log_odds(means, values.shape[2]), strict=True))
            for i in positions:
                if pairs := contrasts[i].pairs:
                    results[i]["log_odds"] = float(np.mean([levels[tuned] - levels[base] for tuned, base in pairs]))
    for contrast, result in zip(contrasts, results, strict=True):
        if "missing" not in result and (fault := items.fault(contrast.terms, contrast.replicates)):
            result |= untested(fault)
    return results


def untested(fault: str) -> dict[str, Any]:
    """Of an effect that says nothing: it can be drawn, and takes part in no test."""
    return {"missing": fault, "p_value": None}


def coefficients(terms: Sequence[Mapping[Key, float]], keys: Sequence[Key]) -> sparse.csr_array:
    """(contrasts, keys)"""
    column = {key: i for i, key in enumerate(keys)}
    rows = [i for i, of_contrast in enumerate(terms) for _ in of_contrast]
    columns = [column[key] for of_contrast in terms for key in of_contrast]
    found = [c for of_contrast in terms for c in of_contrast.values()]
    return sparse.csr_array((found, (rows, columns)), shape=(len(terms), len(keys)))


def without_noise(differences: Array, values: Array) -> Array:
    """Set values to zero that differ from it only by float rounding: their sign has no meaning."""
    differences[np.abs(differences) <= FLOAT_NOISE * np.abs(values).max(initial=0.0)] = 0.0
    return differences


def limits_of(matrix: sparse.csr_array, metric: str) -> Array:
    """(contrasts, 2): what a weighted sum of scores between 0 and 1 (or 100%) can be; bits per byte have no limit."""
    dense = TOP_SCORE.get(metric, 1.0) * matrix.toarray()
    if metric == BITS:
        return np.full((len(dense), 2), (-np.inf, np.inf))
    return np.stack([np.minimum(dense, 0).sum(axis=1), np.maximum(dense, 0).sum(axis=1)], axis=1)


def rows_of(effects: Effects, limits: Array | None = None) -> list[dict[str, Any]]:
    """A row for each effect, its intervals clipped to `limits` (effects, 2)."""
    columns = {name: getattr(effects, of) for name, of in OF_EFFECTS.items()}
    if limits is not None:
        for name in ("ci_low", "ci_high", "next_low", "next_high"):
            columns[name] = np.clip(columns[name], limits[:, 0], limits[:, 1])
    names = tuple(columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*(c.tolist() for c in columns.values()), strict=True)]


def log_odds(means: Array, num_items: int) -> Array:
    """Log-odds of shares of `num_items`; half an item on each side keeps those of 0 and 1 finite (Haldane 1956)."""
    counts = means * num_items
    return np.log((counts + 0.5) / (num_items - counts + 0.5))


def estimate_without_items(
    contrasts: Sequence[Contrast],
    levels: Mapping[Key, Mapping[str, Level]],
    metric: str,
    unsound: Mapping[Key, str] | None = None,
) -> list[dict[str, Any]]:
    """The same from means and standard errors: Key -> replicate -> level.

    unsound  why a cell says nothing about its model
    """
    results: list[dict[str, Any]] = [{} for _ in contrasts]
    alike: dict[int, list[int]] = {}
    for i, contrast in enumerate(contrasts):
        if absent := absent_levels(contrast, levels):
            results[i] = {"missing": "missing: " + "; ".join(absent)}
        else:
            alike.setdefault(len(contrast.replicates), []).append(i)
    for positions in alike.values():
        terms = [contrasts[i].terms for i in positions]
        each, variances, num_items = (
            np.array(part) for part in zip(*(combined(contrasts[i], levels) for i in positions), strict=True)
        )
        limits = limits_of(coefficients(terms, list(dict.fromkeys(key for of_one in terms for key in of_one))), metric)
        for i, row, n in zip(positions, from_replicates(each, variances, limits), num_items, strict=True):
            results[i] = row | {"n": None if np.isnan(n) else int(n)}
            faults = [named((key, ""), unsound[key]) for key in contrasts[i].terms if unsound and key in unsound]
            if faults:
                results[i] |= untested("unsound: " + "; ".join(faults))
    return results


def absent_levels(contrast: Contrast, levels: Mapping[Key, Mapping[str, Level]]) -> list[str]:
    return [
        named((key, replicate))
        for key in contrast.terms
        for replicate in contrast.replicates
        if not {SHARED, replicate} & set(levels.get(key, {}))
    ]


def combined(contrast: Contrast, levels: Mapping[Key, Mapping[str, Level]]) -> tuple[Array, float, float]:
    """Effect in each replicate (replicates,), variance over items of their mean, and fewest items of a model."""
    of_keys = [levels[key] for key in contrast.terms]
    found = np.array(
        [[of_key.get(SHARED, of_key.get(name)) for name in contrast.replicates] for of_key in of_keys], float
    )
    means, errors, num_items = np.moveaxis(found, -1, 0)  # (terms, replicates) each
    coefficient = np.array(list(contrast.terms.values()))[:, None]
    variance = np.square(coefficient * errors).sum(axis=0).mean()
    return (coefficient * means).sum(axis=0), float(variance), float(num_items.min())


def from_replicates(each: Array, item_variance: Array, limits: Array | None = None) -> list[dict[str, Any]]:
    """Estimates from the effects in each replicate (effects, replicates) and the variances over items that replicates
    share (effects,), NaN where unknown.
    """
    is_known = ~np.isnan(item_variance)
    rows = rows_of(replicate_effect(each, np.where(is_known, item_variance, 0.0)), limits)
    unknown = ("std", "ci_low", "ci_high", "item_error") if each.shape[1] == 1 else ("item_error",)
    return [
        row | {"n": None} | ({} if known else dict.fromkeys(unknown, None) | {"note": NO_ERROR})
        for row, known in zip(rows, is_known, strict=True)
    ]
