"""Many claims: their false discovery rate."""

import numpy as np
import numpy.typing as npt
from scipy import stats


def adjusted(p_values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """p-values adjusted for the false discovery rate (Benjamini and Hochberg 1995); NaN, of an untested claim, stays.

    Claims whose adjusted p-value is at most 5% hold on average at most 5% false ones.
    """
    array = np.asarray(p_values, dtype=np.float64)
    is_tested = ~np.isnan(array)
    result = np.full_like(array, np.nan)
    if is_tested.any():
        result[is_tested] = stats.false_discovery_control(array[is_tested], method="bh")
    return result
