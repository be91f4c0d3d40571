"""Tests of equivalence: that an effect is smaller than a margin, which an interval that covers zero does not show."""

import numpy as np
import numpy.typing as npt
from scipy import stats

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
    mean: npt.ArrayLike, standard_error: npt.ArrayLike, df: npt.ArrayLike, margin: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """p-value of the hypothesis that an effect is `margin` or more away from zero: the larger of two one-sided t-tests.

    Arguments broadcast; `df` may be infinite. NaN where an argument is; without any error, 0 inside the margin and 1
    outside.  Raises UserError where a margin is not positive.  (Schuirmann 1987.)
    """
    mean, error, margin = (np.asarray(x, dtype=np.float64) for x in (mean, standard_error, margin))
    if not (margin > 0).all():
        raise UserError(f"found the margin {margin.min()}; expected a positive number, in the unit of the metric")
    inside = margin - np.abs(mean)  # distance to the nearer bound
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(inside == 0, 0.0, inside / error)
    return stats.t.sf(statistic, df)
