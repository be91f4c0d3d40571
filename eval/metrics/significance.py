"""Significance tests: sign flips of paired differences (McNemar's test included)."""

import itertools

import numpy as np
import numpy.typing as npt
from scipy import stats

from eval.metrics.bootstrap import CHUNK_ELEMENTS

MOST_EXACT_FLIPS = 14
"""Up to this many non-zero differences, all 2^n sign flips are enumerated."""
MOST_RANDOM_FLIPS = 1_000
"""Up to this many, NUM_FLIPS random sign flips are drawn; beyond, a normal approximation is used."""
NUM_FLIPS = 10_000


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
