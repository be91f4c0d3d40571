"""Over-training: is there a checkpoint after which fine-tuned quality falls? (cf. arXiv 2503.19206)

The scores of one fine-tuned series, by pre-training tokens, are fitted twice: as never falling, and as rising to a peak
and then falling. The statistic is the improvement of the second fit, in units of the noise between neighbouring
checkpoints (from second differences, so that a smooth course does not count as noise). Under the least favourable
course without a fall, a constant one, its distribution depends only on the number of checkpoints; it is simulated.
Order-restricted tests: Robertson, Wright and Dykstra, Order Restricted Statistical Inference, 1988.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression

from analysis.inference.finding import (
    UNTESTED,
    Finding,
    Row,
    checkpoints_of,
    direction_of,
    metric_on,
    missing_checkpoints,
    own_task_rows,
    same,
    tuned_levels,
)
from analysis.tables.columns import Comparison
from analysis.tables.frames import Tables, in_order

FEWEST = 5
NUM_SIMULATED = 2_000
CHANGE_POINT = "one peak against none, order-restricted, simulated"
Array = npt.NDArray[np.float64]


def over_training(tables: Tables) -> Iterator[Finding]:
    """One finding for every fine-tuned series on its own task, by metric."""
    for row in own_task_rows(tables, Comparison.LAST_MINUS_FIRST):
        yield peak_finding(tables, row)


def peak_finding(tables: Tables, row: Row) -> Finding:
    levels = in_order(tuned_levels(tables, row).dropna(subset=["Performance"]))
    names = list(levels["checkpoint"])
    claim = f"{metric_on(row)} of models fine-tuned on {row['series']} gets worse after some checkpoint"
    common: dict[str, Any] = {"family": "over-training", "claim": claim, "test": CHANGE_POINT, "n": len(names)}
    common |= {"expected": -1, **same(row, "series", "eval_set", "metric", "checkpoint")}
    missing = missing_checkpoints(checkpoints_of(tables, row["family"]), names)
    if missing or len(names) < FEWEST:
        return Finding(**common, **UNTESTED, missing=missing or f"{len(names)} checkpoints, {FEWEST} needed")
    _, better = direction_of(row["metric"])
    scores = levels["Performance"].to_numpy(float) * better
    statistic, peak = peak_statistic(scores)
    p_value = float((1 + (null_statistics(len(scores)) >= statistic - 1e-12).sum()) / (1 + NUM_SIMULATED))
    fall, low, high = fall_after(scores, peak)
    tested: dict[str, Any] = {"effect": fall, "ci_low": low, "ci_high": high, "p_value": p_value}
    note = f"; fitted peak at checkpoint {names[peak]}; effect: last checkpoint minus peak, higher is better"
    return Finding(**common, **tested, direction=-1 if fall < 0 else 0, note=note)


def peak_statistic(scores: Array) -> tuple[float, int]:
    """Improvement of the fit with a single peak over the one without a fall, in noise variances; and the peak."""
    never_falls = isotonic_regression(scores).x
    without = float(np.square(scores - never_falls).sum())
    fits = [unimodal(scores, peak) for peak in range(len(scores))]
    errors = [float(np.square(scores - fit).sum()) for fit in fits]
    peak = int(np.argmin(errors))
    noise = noise_variance(scores)
    return (0.0 if noise == 0 else (without - errors[peak]) / noise), peak


def unimodal(scores: Array, peak: int) -> Array:
    """Least-squares fit that rises up to `peak` and falls after it.  (checkpoints,) -> (checkpoints,)"""
    rising = isotonic_regression(scores[: peak + 1]).x
    if peak + 1 == len(scores):
        return np.asarray(rising)
    falling = isotonic_regression(scores[peak + 1 :], increasing=False).x
    return np.concatenate([rising, np.minimum(falling, rising[-1])])


def noise_variance(scores: Array) -> float:
    """Rice's estimator: second differences of a smooth course are noise with variance 6 sigma^2."""
    return float(np.square(np.diff(scores, n=2)).mean() / 6)


@lru_cache(maxsize=32)
def null_statistics(num_checkpoints: int) -> Array:
    rng = np.random.default_rng(0)
    return np.array([peak_statistic(rng.normal(size=num_checkpoints))[0] for _ in range(NUM_SIMULATED)])


def fall_after(scores: Array, peak: int) -> tuple[float, float, float]:
    """Last fitted score minus that of the peak, with a 95% interval from simulated noise around the fit."""
    fit = unimodal(scores, peak)
    rng, sigma = np.random.default_rng(0), np.sqrt(noise_variance(scores))
    drawn = fit[-1] - fit[peak] + sigma * (rng.normal(size=NUM_SIMULATED) - rng.normal(size=NUM_SIMULATED))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(fit[-1] - fit[peak]), float(low), float(high)
