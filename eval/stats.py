"""How sure a number is: bootstrap intervals, paired differences of two models, trends over checkpoints.

Every mean may carry weights, and is then a ratio of sums, sum(values) / sum(weights): bits per byte of a whole set is
sum(bits) / sum(bytes). The items are what is resampled; two models are always compared on the same items.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from open_instruct.records import UserError

NUM_RESAMPLES = 3_000
CHUNK_ELEMENTS = 1 << 18
"""Resampled items held at once: what was drawn is still in the cache when its values are looked up."""
MOST_EXACT_FLIPS = 14
"""Up to this many non-zero differences, all 2^n sign flips are tried."""
MOST_RANDOM_FLIPS = 1_000
"""Up to this many, random ones are."""
NUM_FLIPS = 10_000
MOST_EXACT_POINTS = 8
"""Up to this many checkpoints, all n! orders are tried."""

Values = Sequence[float] | npt.NDArray[Any]
Method = Literal["percentile", "bca"]


@dataclass(frozen=True)
class Interval:
    """A mean, in the unit of its values. Of a single item, standard error and interval are NaN."""

    mean: float
    standard_error: float
    ci_low: float
    ci_high: float
    n: int


@dataclass(frozen=True)
class Difference:
    """The mean of a - b over the same items; `p_value` is two-sided, for: a and b can be swapped on any item."""

    mean: float
    standard_error: float
    ci_low: float
    ci_high: float
    n: int
    p_value: float


@dataclass(frozen=True)
class Trend:
    tau: float
    """Kendall's tau-b; 0 where y never changes."""
    p_value: float
    """Two-sided, for: every order of y over x is as likely as another."""
    slope: float
    """Of the least-squares line, in units of y for each unit of x."""


def bootstrap_mean(
    values: Values,
    weights: Values | None = None,
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = 0.95,
    method: Method = "percentile",
) -> Interval:
    """Mean of `values` (items,), or sum(values) / sum(weights), with the bootstrap interval over items.

    Raises UserError for no items, values that are not finite, weights that are not positive, unequal lengths.
    """
    values, weights = checked(values, weights)
    mean = float(values.sum() / weights.sum())
    if len(values) == 1:
        return Interval(mean, np.nan, np.nan, np.nan, 1)
    resampled = resampled_means(values, weights, seed=seed, num_resamples=num_resamples)
    low, high = (1 - confidence) / 2, (1 + confidence) / 2
    error = standard_error(values, weights)
    # Where all items agree there is no skewness to correct for, only float noise.
    if method == "bca" and error > 1e-12 * abs(mean):
        low, high = bca_quantiles(values, weights, resampled, (low, high))
    ci_low, ci_high = np.quantile(resampled, [low, high])
    return Interval(mean, error, float(ci_low), float(ci_high), len(values))


def bootstrap_table(
    counts: npt.NDArray[np.int64],
    statistic: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float64]],
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = 0.95,
) -> Interval:
    """A statistic of a table of counts, say of a confusion matrix, with the bootstrap interval over the counted items.

    `statistic` maps tables (..., *counts.shape) to numbers (...).  Raises UserError where nothing was counted.
    """
    n = int(counts.sum())
    if n == 0:
        raise UserError("found a table of zeros; expected one counted item at least")
    mean = float(statistic(counts))
    if n == 1:
        return Interval(mean, np.nan, np.nan, np.nan, 1)
    # To draw n items with replacement is to draw how many fall in each cell.
    drawn = np.random.default_rng(seed).multinomial(n, counts.ravel() / n, size=num_resamples)
    resampled = statistic(drawn.reshape(num_resamples, *counts.shape))  # (num_resamples,)
    ci_low, ci_high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean, float(resampled.std(ddof=1)), float(ci_low), float(ci_high), n)


def paired_difference(
    a: Values,
    b: Values,
    weights: Values | None = None,
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = 0.95,
    method: Method = "percentile",
) -> Difference:
    """Mean of a - b, two models' values of the same items (items,), with its bootstrap interval and p-value.

    Raises UserError as `bootstrap_mean` does.
    """
    a_values, shared_weights = checked(a, weights)
    b_values, _ = checked(b, weights)
    if len(a_values) != len(b_values):
        raise UserError(
            f"found {len(a_values)} values to compare with {len(b_values)}; expected the same items in both"
        )
    interval = bootstrap_mean(
        a_values - b_values,
        shared_weights,
        seed=seed,
        num_resamples=num_resamples,
        confidence=confidence,
        method=method,
    )
    return Difference(**asdict(interval), p_value=sign_flip_p_value(a_values - b_values, seed=seed))


def checked(values: Values, weights: Values | None) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    array = np.asarray(values, dtype=np.float64)
    weight_array = np.ones_like(array) if weights is None else np.asarray(weights, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0:
        raise UserError(f"found values of shape {array.shape}; expected one value for each item, and an item at least")
    if len(weight_array) != len(array):
        raise UserError(f"found {len(weight_array)} weights for {len(array)} values; expected one each")
    if not np.isfinite(array).all():
        first = int(np.flatnonzero(~np.isfinite(array))[0])
        raise UserError(f"value {first} is {array[first]}; expected finite numbers: look at that item's prediction")
    if not (np.isfinite(weight_array) & (weight_array > 0)).all():
        raise UserError("found a weight that is not a positive number; expected, for instance, bytes of text")
    return array, weight_array


def resampled_means(
    values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], *, seed: int, num_resamples: int
) -> npt.NDArray[np.float64]:
    """The mean of each resample, drawn with replacement.  -> (num_resamples,)"""
    rng = np.random.default_rng(seed)
    is_weighted = bool((weights != 1).any())
    num_rows = max(1, CHUNK_ELEMENTS // len(values))
    means = []
    for start in range(0, num_resamples, num_rows):
        rows = min(num_rows, num_resamples - start)
        drawn = rng.integers(0, len(values), size=(rows, len(values)))  # (rows, items)
        # All are in range: `clip` only spares a second look at each.
        totals = weights.take(drawn, mode="clip").sum(axis=1) if is_weighted else len(values)
        means.append(values.take(drawn, mode="clip").sum(axis=1) / totals)
    return np.concatenate(means)


def standard_error(values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> float:
    """Of a ratio of sums, by linearisation; with weights of one this is sample deviation / sqrt(n)."""
    residuals = values - values.sum() / weights.sum() * weights
    return float(np.sqrt(len(values) / (len(values) - 1) * np.square(residuals).sum()) / weights.sum())


def bca_quantiles(
    values: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    resampled: npt.NDArray[np.float64],
    quantiles: tuple[float, float],
) -> tuple[float, float]:
    """Where to cut `resampled` instead of at `quantiles`: corrected for bias and skewness (Efron 1987)."""
    mean = values.sum() / weights.sum()
    bias = special.ndtri(((resampled < mean).mean() + (resampled <= mean).mean()) / 2)
    left_out = (values.sum() - values) / (weights.sum() - weights)  # (items,): the mean without item i
    influence = left_out.mean() - left_out
    acceleration = np.sum(influence**3) / (6 * np.sum(influence**2) ** 1.5)
    shifted = bias + special.ndtri(np.array(quantiles))
    low, high = special.ndtr(bias + shifted / (1 - acceleration * shifted))
    return float(low), float(high)


def sign_flip_p_value(differences: npt.NDArray[np.float64], *, seed: int = 0) -> float:
    """Two-sided p-value of the paired permutation test: the sum against the sums under random signs.  (items,) -> p

    Exact where all differences are of one size (this is McNemar's test) or few; else by seeded random signs. Of many
    differences the sum is taken as normal with variance sum(d^2): by then that errs less than random signs do, and the
    p-value has no floor at 1 / flips, which a correction for many comparisons would run into.
    """
    # Differences of sums that are equal on paper are not always equal in floats.
    moved = differences[np.abs(differences) > 1e-12 * np.abs(differences).max()]
    sizes = np.abs(moved)
    if len(moved) == 0:
        return 1.0
    if np.ptp(sizes) <= 1e-9 * sizes.max():
        return float(stats.binomtest(int((moved > 0).sum()), len(moved)).pvalue)
    if len(moved) > MOST_RANDOM_FLIPS:
        return float(2 * stats.norm.sf(abs(moved.sum()) / np.sqrt(np.square(moved).sum())))
    at_least = abs(moved.sum()) - 1e-12 * sizes.sum()
    if len(moved) <= MOST_EXACT_FLIPS:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(moved))))  # (2^n, n)
        return float((np.abs(signs @ sizes) >= at_least).mean())
    rng = np.random.default_rng(seed)
    num_rows, as_large = CHUNK_ELEMENTS // len(moved), 0
    for start in range(0, NUM_FLIPS, num_rows):
        is_plus = rng.integers(0, 2, size=(min(num_rows, NUM_FLIPS - start), len(moved)))
        as_large += int((np.abs(2 * (is_plus @ sizes) - sizes.sum()) >= at_least).sum())
    # The signs as they were found are one more draw.
    return (as_large + 1) / (NUM_FLIPS + 1)


def mcnemar(a_is_correct: Values, b_is_correct: Values) -> float:
    """Exact two-sided p-value of McNemar's test: is one model right more often on the same items?  (items,) -> p

    Raises UserError where a value is not 0 or 1, or the lengths differ.
    """
    a, b = np.asarray(a_is_correct), np.asarray(b_is_correct)
    if a.shape != b.shape or not np.isin(np.concatenate([a, b]), (0, 1)).all():
        raise UserError(f"found {a.shape} and {b.shape} values; expected 0 or 1 for each of the same items")
    only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def trend(x: Values, y: Values) -> Trend:
    """Does y rise or fall with x (points,)?  Raises UserError for fewer than two different x, or unequal lengths."""
    x_values, _ = checked(x, None)
    y_values, _ = checked(y, None)
    if len(x_values) != len(y_values) or np.ptp(x_values) == 0:
        raise UserError(f"found {len(x_values)} x and {len(y_values)} y; expected pairs, with two different x at least")
    centred = x_values - x_values.mean()
    slope = float(centred @ y_values / (centred @ centred))
    if np.ptp(y_values) == 0:
        return Trend(tau=0.0, p_value=1.0, slope=0.0)
    kendall: Any = stats.kendalltau(x_values, y_values)
    is_exact = len(x_values) <= MOST_EXACT_POINTS
    p_value = kendall_exact_p_value(x_values, y_values) if is_exact else float(kendall.pvalue)
    return Trend(float(kendall.statistic), p_value, slope)


def kendall_exact_p_value(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    """Share of all orders of y that agree (or disagree) with x as much as the one found; ties are kept."""
    first, second = np.triu_indices(len(x), k=1)  # (pairs,)
    x_signs, y_signs = np.sign(x[second] - x[first]), np.sign(y[second] - y[first])
    if (x_signs * y_signs).all():
        # Without ties agreement is the number of pairs less twice the inversions: their count needs no list of orders.
        agreement = np.abs(len(first) - 2 * np.arange(len(first) + 1))
        as_much = agreement >= abs(int(x_signs @ y_signs))
        return int(inversion_counts(len(x))[as_much].sum()) / math.factorial(len(x))
    orders = y[permutations(len(y))]  # (n!, points)
    agreement = np.sign(orders[:, second] - orders[:, first]) @ x_signs  # (n!,), whole numbers
    return float((np.abs(agreement) >= abs(agreement[0])).mean())


@cache
def inversion_counts(n: int) -> npt.NDArray[np.int64]:
    """How many of the n! orders have 0, 1, ... n (n - 1) / 2 inversions: the k-th point adds 0 to k - 1 of them."""
    counts = np.ones(1, dtype=np.int64)
    for k in range(2, n + 1):
        counts = np.convolve(counts, np.ones(k, dtype=np.int64))
    return counts


@cache
def permutations(n: int) -> npt.NDArray[np.int64]:
    """(n!, n); the first row is the order as it is."""
    return np.array(list(itertools.permutations(range(n))))


def holm(p_values: Values) -> list[float]:
    """P-values corrected for their number (Holm 1979), in the order given: reject where one is below the level."""
    array, _ = checked(p_values, None)
    order = np.argsort(array, kind="stable")
    factors = np.arange(len(array), 0, -1)
    adjusted = np.empty_like(array)
    adjusted[order] = np.minimum(np.maximum.accumulate(array[order] * factors), 1.0)
    return adjusted.tolist()
