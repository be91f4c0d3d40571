"""Over-training: is there a checkpoint after which fine-tuned quality falls? (cf. arXiv 2503.19206)

The scores of one fine-tuned series, by tokens of pre-training, are fitted twice: never falling, and rising to a peak
and then falling. The statistic is how much the second fits better, in units of the noise between neighbouring
checkpoints (from second differences, so a smooth course does not count as noise). Under the least favourable course
without a fall, a level one, its distribution depends on nothing but the number of checkpoints; it is simulated.
Order-restricted tests: Robertson, Wright and Dykstra, Order Restricted Statistical Inference, 1988.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression

from analysis.inference import contrasts
from analysis.inference.claims import (
    Finding,
    about,
    direction_of,
    metric_on,
    rows_of,
    tuned_levels,
)
from analysis.tables.frames import Tables, found_checkpoints, in_order

FEWEST = 5
NUM_SIMULATED = 2_000
CHANGE_POINT = "one peak against none, order-restricted, simulated"
Array = npt.NDArray[np.float64]


def over_training(tables: Tables) -> Iterator[Finding]:
    """Of every fine-tuned series on its own task, by metric."""
    for row in rows_of(tables, contrasts.LAST_MINUS_FIRST, "in-domain"):
        if row["format"] == "default":
            yield peak_finding(tables, row)


def peak_finding(tables: Tables, row: dict[Any, Any]) -> Finding:
    levels = in_order(tuned_levels(tables, row).dropna(subset=["Performance"]))
    names = list(levels["checkpoint"])
    absent = [name for name in found_checkpoints(tables.performance)[row["family"]] if name not in names]
    claim = f"after fine-tuning on {row['series']}, {metric_on(row)} gets worse again after some checkpoint"
    common: dict[str, Any] = {"family": "over-training", "claim": claim, **about(row), "test": CHANGE_POINT}
    common |= {"n": len(names), "expected": -1}
    nothing: dict[str, Any] = dict.fromkeys(("effect", "ci_low", "ci_high", "p_value"))
    if absent or len(names) < FEWEST:
        missing = f"missing: checkpoint {', '.join(absent)}" if absent else f"{len(names)} checkpoints, {FEWEST} needed"
        return Finding(**common, **nothing, direction=0, missing=missing)
    _, better = direction_of(row["metric"])
    scores = levels["Performance"].to_numpy(float) * better
    statistic, peak = peak_statistic(scores)
    p_value = float((1 + (null_statistics(len(scores)) >= statistic - 1e-12).sum()) / (1 + NUM_SIMULATED))
    fall, low, high = fall_after(scores, peak)
    tested: dict[str, Any] = {"effect": fall, "ci_low": low, "ci_high": high, "p_value": p_value}
    note = f"; best fit peaks at checkpoint {names[peak]}; effect is the last checkpoint against it, better counting up"
    return Finding(**common, **tested, direction=-1 if fall < 0 else 0, note=note)


def peak_statistic(scores: Array) -> tuple[float, int]:
    """How much better a single peak fits than no fall at all, in noise variances, and where it is."""
    never_falls = isotonic_regression(scores).x
    without = float(np.square(scores - never_falls).sum())
    fits = [unimodal(scores, peak) for peak in range(len(scores))]
    errors = [float(np.square(scores - fit).sum()) for fit in fits]
    peak = int(np.argmin(errors))
    noise = noise_variance(scores)
    return (0.0 if noise == 0 else (without - errors[peak]) / noise), peak


def unimodal(scores: Array, peak: int) -> Array:
    """Least squares under: rises up to `peak`, falls from there on.  (checkpoints,) -> (checkpoints,)"""
    rising = isotonic_regression(scores[: peak + 1]).x
    if peak + 1 == len(scores):
        return np.asarray(rising)
    falling = isotonic_regression(scores[peak + 1 :], increasing=False).x
    return np.concatenate([rising, np.minimum(falling, rising[-1])])


def noise_variance(scores: Array) -> float:
    """Rice's estimator: second differences of a smooth course are noise, with variance 6 sigma^2."""
    return float(np.square(np.diff(scores, n=2)).mean() / 6)


@lru_cache(maxsize=32)
def null_statistics(num_checkpoints: int) -> Array:
    rng = np.random.default_rng(0)
    return np.array([peak_statistic(rng.normal(size=num_checkpoints))[0] for _ in range(NUM_SIMULATED)])


def fall_after(scores: Array, peak: int) -> tuple[float, float, float]:
    """Last fitted score minus that of the peak, with its 95% interval by redrawing the noise around the fit."""
    fit = unimodal(scores, peak)
    rng, sigma = np.random.default_rng(0), np.sqrt(noise_variance(scores))
    drawn = fit[-1] - fit[peak] + sigma * (rng.normal(size=NUM_SIMULATED) - rng.normal(size=NUM_SIMULATED))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(fit[-1] - fit[peak]), float(low), float(high)
