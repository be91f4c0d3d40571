"""Contrasts of models of which only means and standard errors are known, as in published tables.

Errors are assumed to be normal and independent. Errors of models evaluated on the same items are positively
correlated, so intervals of their differences are conservative.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from analysis.inference.contrasts import Contrast, absent_cells
from analysis.inference.paired import spread_result
from analysis.tables.gathering import Key, key_of
from analysis.tables.intervals import Z_95
from eval.metrics.bootstrap import NUM_RESAMPLES

Level = tuple[float, float]
"""Mean and standard error; the error is NaN where none was published."""
NO_ERROR = {"missing": "no standard error was published"}


def levels_of(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], dict[Key, Level]]:
    """(setting, metric) -> level of every model."""
    levels: dict[tuple[str, str], dict[Key, Level]] = {}
    for row in rows:
        levels.setdefault((row["setting"], row["metric"]), {})[key_of(row)] = (row["Performance"], row["std"])
    return levels


def evaluate_unpaired(contrasts: Sequence[Contrast], levels: Mapping[Key, Level]) -> list[dict[str, Any]]:
    """Compute difference, std, ci_low, ci_high and p_value of each contrast, or `missing`: why there are none."""
    results = []
    for contrast in contrasts:
        problem = absent_cells(contrast.keys, levels)
        if problem:
            results.append({"missing": problem})
        else:
            results.append(spread(contrast, levels) if contrast.spreads else linear(contrast.terms, levels))
    return results


def linear(terms: Mapping[Key, float], levels: Mapping[Key, Level]) -> dict[str, Any]:
    difference = sum(c * levels[key][0] for key, c in terms.items())
    error = float(np.sqrt(sum((c * levels[key][1]) ** 2 for key, c in terms.items())))
    return {"difference": difference, **normal_result(difference, error)}


def normal_result(difference: float, error: float) -> dict[str, Any]:
    """Normal test and interval of a difference; only `missing` where no error was published."""
    if np.isnan(error):
        return NO_ERROR
    # Two published errors of exactly zero: the scores are equal, or different for certain.
    p_value = float(2 * stats.norm.sf(abs(difference) / error)) if error > 0 else float(difference == 0)
    interval = {"ci_low": difference - Z_95 * error, "ci_high": difference + Z_95 * error}
    return {"std": error, **interval, "p_value": p_value}


def spread(contrast: Contrast, levels: Mapping[Key, Level]) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    point, drawn = 0.0, np.zeros(NUM_RESAMPLES)
    for coefficient, keys in contrast.spreads:
        means, errors = (np.array([levels[key][i] for key in keys]) for i in (0, 1))
        point += coefficient * np.ptp(means)
        draws = rng.normal(means[:, None], np.nan_to_num(errors)[:, None], size=(len(keys), NUM_RESAMPLES))
        drawn = drawn + coefficient * np.ptp(draws, axis=0)
    if any(np.isnan(levels[key][1]) for key in contrast.keys):
        return {"difference": point} | NO_ERROR
    return spread_result(float(point), drawn, len(contrast.spreads) > 1)
