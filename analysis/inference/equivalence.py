"""Tests of equivalence: that an effect is smaller than a margin, which an interval that covers zero does not show."""

import numpy as np
import numpy.typing as npt
from scipy import stats

from analysis.inference.error_parts import corrected
from open_instruct.common.errors import UserError

MARGINS = {
    "accuracy": 0.02,
    "acc": 0.02,
    "exact_match": 0.02,
    "rouge_l": 0.02,
    "macro_f1": 0.02,
    "bits_per_byte": 0.02,
}
"""Largest absolute effect that counts as none, by metric: two points of a hundred (2% of a bit per byte) is less than
what separates neighbouring models in published comparisons, and what several hundred items can still show."""


def equivalent(
    mean: npt.ArrayLike,
    standard_error: npt.ArrayLike,
    df: npt.ArrayLike,
    margin: npt.ArrayLike,
    skew: npt.ArrayLike = 0.0,
) -> npt.NDArray[np.float64]:
    """p-value of the hypothesis that an effect is `margin` or more away from zero: the larger of two one-sided t-tests.

    Arguments broadcast, are those of `crossed.Effects`, and `df` may be infinite. NaN where one of them is; without
    any error, 0 inside the margin and 1 outside.  Raises UserError where a margin is not positive.  (Schuirmann 1987;
    corrected for `skew` as in `error_parts`.)
    """
    arrays = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (mean, standard_error, margin, skew)))
    mean, error, margin, skew = arrays
    if not (margin > 0).all():
        raise UserError(f"found the margin {margin.min()}; expected a positive number, in the unit of the metric")
    with np.errstate(divide="ignore", invalid="ignore"):
        above, below = (mean + margin) / error, (mean - margin) / error  # studentised distances from both bounds
    is_exact = error == 0
    certain = np.where(np.abs(mean) < margin, 0.0, 1.0)
    above, below = (corrected(np.where(is_exact, 0.0, t), skew) for t in (above, below))
    return np.where(is_exact, certain, np.fmax(stats.t.sf(above, df), stats.t.cdf(below, df)))
