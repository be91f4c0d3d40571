"""Bootstrap intervals of means, of ratios of sums, and of statistics of a confusion matrix.

A mean with weights is a ratio of sums, sum(values) / sum(weights): bits per byte of an evaluation set is
sum(bits) / sum(bytes). Items are resampled.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from open_instruct.common.errors import UserError
from open_instruct.study.settings import ScoreOptions

NUM_RESAMPLES = ScoreOptions().num_resamples
QUANTILES = (1 - 0.95) / 2, (1 + 0.95) / 2
"""Bounds of a 95% interval."""
CHUNK_ELEMENTS = 1 << 18
"""Resampled items per chunk: the drawn indices are still in the cache when their values are looked up."""

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

    def to_json(self) -> dict[str, float | None]:
        """The fields, with None for NaN, which JSON does not have."""
        return {key: None if math.isnan(value) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Interval":
        spread = {k: math.nan if fields[k] is None else fields[k] for k in ("standard_error", "ci_low", "ci_high")}
        return cls(mean=fields["mean"], n=fields["n"], **spread)


def bootstrap_mean(
    values: Values,
    weights: Values | None = None,
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    method: Method = "percentile",
) -> Interval:
    """Mean of `values` (items,), or sum(values) / sum(weights), with its 95% bootstrap interval over items.

    Raises UserError for no items, values that are not finite, weights that are not positive, unequal lengths.
    """
    values, weights = checked(values, weights)
    mean = float(values.sum() / weights.sum())
    if len(values) == 1:
        return Interval(mean, np.nan, np.nan, np.nan, 1)
    resampled = resampled_means(values, weights, seed=seed, num_resamples=num_resamples)
    quantiles, error = QUANTILES, standard_error(values, weights)
    # Where all items are equal there is no skewness to correct for, only float noise.
    if method == "bca" and error > 1e-12 * abs(mean):
        quantiles = bca_quantiles(values, weights, resampled)
    ci_low, ci_high = np.quantile(resampled, quantiles)
    return Interval(mean, error, float(ci_low), float(ci_high), len(values))


def bootstrap_table(
    counts: npt.NDArray[np.int64],
    statistic: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float64]],
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Interval:
    """A statistic of a table of counts, such as a confusion matrix, with its 95% bootstrap interval over the items.

    `statistic` maps tables (..., *counts.shape) to numbers (...).  Raises UserError where all counts are zero.
    """
    n = int(counts.sum())
    if n == 0:
        raise UserError("found a table of zeros; expected at least one counted item")
    mean = float(statistic(counts))
    if n == 1:
        return Interval(mean, np.nan, np.nan, np.nan, 1)
    # Drawing n items with replacement is drawing the number of items in each cell.
    drawn = np.random.default_rng(seed).multinomial(n, counts.ravel() / n, size=num_resamples)
    resampled = statistic(drawn.reshape(num_resamples, *counts.shape))  # (num_resamples,)
    ci_low, ci_high = np.quantile(resampled, QUANTILES)
    return Interval(mean, float(resampled.std(ddof=1)), float(ci_low), float(ci_high), n)


def checked(values: Values, weights: Values | None = None) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Values and weights (default: ones) as float arrays.  Raises UserError as `bootstrap_mean` does."""
    array = np.asarray(values, dtype=np.float64)
    weight_array = np.ones_like(array) if weights is None else np.asarray(weights, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0:
        raise UserError(f"found values of shape {array.shape}; expected one value for each item, and at least one item")
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
        # All indices are in range: mode="clip" only avoids checking them again.
        totals = weights.take(drawn, mode="clip").sum(axis=1) if is_weighted else len(values)
        means.append(values.take(drawn, mode="clip").sum(axis=1) / totals)
    return np.concatenate(means)


def standard_error(values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> float:
    """Standard error of a ratio of sums, by linearisation; with weights of one, sample deviation / sqrt(n)."""
    residuals = values - values.sum() / weights.sum() * weights
    return float(np.sqrt(len(values) / (len(values) - 1) * np.square(residuals).sum()) / weights.sum())


def bca_quantiles(
    values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], resampled: npt.NDArray[np.float64]
) -> tuple[float, float]:
    """QUANTILES corrected for bias and skewness (Efron 1987)."""
    mean = values.sum() / weights.sum()
    bias = special.ndtri(((resampled < mean).mean() + (resampled <= mean).mean()) / 2)
    left_out = (values.sum() - values) / (weights.sum() - weights)  # (items,): the mean without item i
    influence = left_out.mean() - left_out
    acceleration = np.sum(influence**3) / (6 * np.sum(influence**2) ** 1.5)
    shifted = bias + special.ndtri(np.array(QUANTILES))
    low, high = special.ndtr(bias + shifted / (1 - acceleration * shifted))
    return float(low), float(high)
