"""The smallest true effect that planned replicates and items can show, by the error rule of `crossed_effects`.

The mean of R replicates of n items is normal around the effect; its mean squares are independent of it, and each is its
expectation times chi-square / df. The power is the mean, over the mean squares, of the chance that the mean lies beyond
the half width that they give (error_parts.py). The correction for skewness is left out: with 20 items it costs 8 points
of power, with 50 or more at most 2.
"""

import numpy as np
from scipy import special

from analysis.inference.error_parts import LEVEL, Array, ErrorParts

POWER = 0.8
QUANTILES = 60
"""Values of each mean square over which the power is averaged: its error is below 0.002."""


def smallest_detectable_effect(
    item_error: float,
    replicate_sd: float,
    replicates: int,
    items: float,
    *,
    shared: float = 1.0,
    level: float = LEVEL,
    power: float = POWER,
) -> float:
    """The effect that a test at `level` shows in this share of studies, in the unit of the errors.

    item_error    standard error over items of the effect in one replicate
    replicate_sd  standard deviation of the effect between replicates, beyond what their items explain
    items         their number; infinite where the item error is taken as known
    shared        share of the squared item error that is the same in all replicates; the rest is averaged out
    Of the level of a claim that is tested alone. Infinite with fewer than two replicates or items.
    """
    if replicates < 2 or items < 2:
        return np.inf
    of_items = item_error**2 * (shared + (1 - shared) / replicates)
    rest = item_error**2 * (1 - shared) / replicates
    between = replicate_sd**2 / replicates + rest
    error = np.sqrt(replicate_sd**2 / replicates + of_items)
    if error == 0:
        return 0.0
    # (quantiles of between, quantiles of items)
    found_between = between * mean_squares(replicates - 1)[:, None]
    found_items = of_items * mean_squares(items - 1)[None, :]
    parts = ErrorParts(
        between=found_between,
        shared=np.maximum(found_items - rest, 0.0),
        items=found_items,
        skewness=np.zeros(()),
        df_between=replicates - 1,
        df_items=items - 1,
    )
    reach = parts.half_width(level)

    def lacking(effect: float) -> float:
        shown = special.ndtr((effect - reach) / error) + special.ndtr((-effect - reach) / error)
        return float(shown.mean()) - power

    low, high = 0.0, float(reach.max() + 10 * error)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if lacking(middle) < 0 else (low, middle)
    return high


def mean_squares(df: float) -> Array:
    """Chi-square / df at the middles of equal parts of its distribution: (QUANTILES,)."""
    tail = (np.arange(QUANTILES) + 0.5) / QUANTILES
    if np.isinf(df):
        return np.ones(QUANTILES)
    return 2 * special.gammaincinv(df / 2, tail) / df
