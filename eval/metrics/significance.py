"""Significance tests: sign flips of paired differences, McNemar, Kendall trends, Holm's correction."""

import itertools
import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from eval.metrics.bootstrap import CHUNK_ELEMENTS, Values, checked
from open_instruct.common.errors import UserError

MOST_EXACT_FLIPS = 14
"""Up to this many non-zero differences, all 2^n sign flips are tried."""


MOST_RANDOM_FLIPS = 1_000
"""Up to this many, random ones are."""


NUM_FLIPS = 10_000


MOST_EXACT_POINTS = 8
"""Up to this many checkpoints, all n! orders are tried."""


@dataclass(frozen=True)
class Trend:
    tau: float
    """Kendall's tau-b; 0 where y never changes."""
    p_value: float
    """Two-sided, for: every order of y over x is as likely as another."""
    slope: float
    """Of the least-squares line, in units of y for each unit of x."""


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
