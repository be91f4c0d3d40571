"""Significance tests: sign flips of paired differences (McNemar's test included), Kendall trends, Holm's correction."""

import itertools
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from eval.metrics.bootstrap import CHUNK_ELEMENTS, Values, checked
from open_instruct.common.errors import UserError

MOST_EXACT_FLIPS = 14
"""Up to this many non-zero differences, all 2^n sign flips are enumerated."""
MOST_RANDOM_FLIPS = 1_000
"""Up to this many, NUM_FLIPS random sign flips are drawn; beyond, a normal approximation is used."""
NUM_FLIPS = 10_000
MOST_EXACT_POINTS = 8
"""Up to this many points with ties, all n! orders are enumerated."""


@dataclass(frozen=True)
class Trend:
    tau: float
    """Kendall's tau-b; 0 where y is constant."""
    p_value: float
    """Two-sided, under the null hypothesis that every order of y over x is equally likely."""


def sign_flip_p_value(differences: npt.NDArray[np.float64], *, seed: int = 0) -> float:
    """Two-sided p-value of the paired permutation test: the sum against the sums under random signs.  (items,) -> p

    Exact where there are few differences, or all have one size (then it is McNemar's test); else by seeded random
    signs. For many differences the sum is taken as normal with variance sum(d^2): its error is then smaller than that
    of random signs, and the p-value has no lower bound of 1 / flips, which Holm's correction would run into.
    """
    # Differences of sums that are mathematically equal are not always equal as floats.
    nonzero = differences[np.abs(differences) > 1e-12 * np.abs(differences).max()]
    sizes = np.abs(nonzero)
    if len(nonzero) == 0:
        return 1.0
    if np.ptp(sizes) <= 1e-9 * sizes.max():
        return float(stats.binomtest(int((nonzero > 0).sum()), len(nonzero)).pvalue)
    if len(nonzero) > MOST_RANDOM_FLIPS:
        return float(2 * stats.norm.sf(abs(nonzero.sum()) / np.sqrt(np.square(nonzero).sum())))
    at_least = abs(nonzero.sum()) - 1e-12 * sizes.sum()
    if len(nonzero) <= MOST_EXACT_FLIPS:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(nonzero))))  # (2^n, n)
        return float((np.abs(signs @ sizes) >= at_least).mean())
    rng = np.random.default_rng(seed)
    num_rows, as_large = CHUNK_ELEMENTS // len(nonzero), 0
    for start in range(0, NUM_FLIPS, num_rows):
        is_plus = rng.integers(0, 2, size=(min(num_rows, NUM_FLIPS - start), len(nonzero)))
        as_large += int((np.abs(2 * (is_plus @ sizes) - sizes.sum()) >= at_least).sum())
    # The observed signs count as one more draw.
    return (as_large + 1) / (NUM_FLIPS + 1)


def trend(x: Values, y: Values) -> Trend:
    """Kendall's rank correlation of x and y (points,), with a p-value that is exact for few points.

    Raises UserError for fewer than two different x, or unequal lengths.
    """
    x_values, _ = checked(x)
    y_values, _ = checked(y)
    if len(x_values) != len(y_values) or np.ptp(x_values) == 0:
        raise UserError(f"found {len(x_values)} x and {len(y_values)} y; expected pairs, with at least two different x")
    if np.ptp(y_values) == 0:
        return Trend(tau=0.0, p_value=1.0)
    kendall: Any = stats.kendalltau(x_values, y_values)  # its p-value is exact for few points without ties
    has_ties = len(np.unique(x_values)) < len(x_values) or len(np.unique(y_values)) < len(y_values)
    enumerates = has_ties and len(x_values) <= MOST_EXACT_POINTS
    p_value = kendall_p_value_with_ties(x_values, y_values) if enumerates else float(kendall.pvalue)
    return Trend(float(kendall.statistic), p_value)


def kendall_p_value_with_ties(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    """Fraction of all orders of y that agree (or disagree) with x as much as the observed one; ties are kept."""
    first, second = np.triu_indices(len(x), k=1)  # (pairs,)
    x_signs = np.sign(x[second] - x[first])
    orders = y[permutations(len(y))]  # (n!, points)
    agreement = np.sign(orders[:, second] - orders[:, first]) @ x_signs  # (n!,), integers
    return float((np.abs(agreement) >= abs(agreement[0])).mean())


@cache
def permutations(n: int) -> npt.NDArray[np.int64]:
    """(n!, n); the first row is the identity."""
    return np.array(list(itertools.permutations(range(n))))


def holm(p_values: Values) -> list[float]:
    """P-values corrected for multiple comparisons (Holm 1979), in the given order."""
    array, _ = checked(p_values)
    order = np.argsort(array, kind="stable")
    factors = np.arange(len(array), 0, -1)
    adjusted = np.empty_like(array)
    adjusted[order] = np.minimum(np.maximum.accumulate(array[order] * factors), 1.0)
    return adjusted.tolist()
