"""Effects measured in several replicates on the same items: both vary, crossed.

Replicates are pre-training runs or fine-tuning seeds. The contribution of item i in replicate r is

    value[r, i] = effect + run[r] + item[i] + rest[r, i]        variances s2_R, s2_I, s2_RI

so that the mean over R replicates of n items has the variance s2_R / R + s2_I / n + s2_RI / (R n), which expected mean
squares estimate without bias as (MS_R + MS_I - MS_RI) / (R n) (Obuchowski and Rockette 1995, Hillis 2007). It is the
sum of two parts:

    between = MS_R / (R n)                  of replicates, with the rest            R - 1 degrees of freedom
    shared  = max(MS_I - MS_RI, 0) / (R n)  of items, the same in all replicates    n - 1 degrees of freedom

Degrees of freedom for the sum (Satterthwaite 1946, Hillis 2007) grow without bound where MS_R is small by chance, which
is just where the variance is underestimated: of tests at 5% with three replicates, up to 7.9% err, and at 0.1% up to
1.7%. Therefore each part has its own quantile, and an interval of level 1 - a reaches

    sqrt(t(R - 1, a)^2 between + t(n - 1, a)^2 shared)

from the mean (Banerjee 1961). Its error is at most a whatever the two variances are: given the estimates the chance of
covering is the chi-square distribution function at a weighted mean of the two parts, and that function is concave.
The p-value is the smallest a whose interval leaves out zero.
"""

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from scipy import special

from open_instruct.common.errors import UserError

Array = npt.NDArray[np.float64]

LEVEL = 0.05
"""Intervals hold the true value in all but this share of studies."""
CHUNK_ELEMENTS = 1 << 21
"""Values per chunk of contrasts: bounds the memory for intermediate results."""
ROUNDING = 1e-12
"""Deviations smaller than this, relative to the largest value, are rounding."""
SMALLEST_P = 1e-300


@dataclass(frozen=True)
class Effects:
    """Effects with their uncertainty over replicates and items: arrays (contrasts,), in the unit of the values.

    With one replicate `standard_error` and the interval are over items alone, and there is no test.
    """

    mean: Array
    standard_error: Array
    df: Array
    """Of the t distribution by which standard error and 95% interval agree; NaN with one replicate."""
    ci_low: Array
    ci_high: Array
    p_value: Array
    """Two-sided, of no effect."""
    item_error: Array
    """Standard error over items of one replicate."""
    replicate_sd: Array
    """Standard deviation between replicates beyond what their items' noise explains."""
    next_low: Array
    next_high: Array
    """95% prediction interval of the effect in one further replicate on the same items."""
    replicates: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]
    """Independent units: items, or clusters of them."""


def crossed_effects(
    values: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    clusters: npt.ArrayLike | None = None,
    limits: tuple[float, float] = (-np.inf, np.inf),
) -> Effects:
    """Mean effects of `values` (contrasts, replicates, items), and how far replicates and items leave them open.

    With `weights` (items,) an effect is sum(values) / sum(weights), for instance bits by bytes; its errors are
    linearised as in `eval.metrics.bootstrap.standard_error`. Items of one code in `clusters` (items,) vary together.
    Intervals are clipped to `limits`.  Raises UserError for other shapes, and values or weights that are not numbers.
    """
    array, weight, codes = checked(values, weights, clusters)
    if codes is not None:
        order, starts = np.argsort(codes, kind="stable"), np.unique(np.sort(codes), return_index=True)[1]
        weight = np.add.reduceat(weight[order], starts)
    rows = max(1, CHUNK_ELEMENTS // max(1, array.shape[1] * array.shape[2]))
    chunks = []
    for start in range(0, max(1, len(array)), rows):
        chunk = array[start : start + rows]
        if codes is not None:
            chunk = np.add.reduceat(chunk[..., order], starts, axis=-1)
        chunks.append(chunk_effects(chunk, weight, limits))
    return Effects(**{f.name: np.concatenate([getattr(chunk, f.name) for chunk in chunks]) for f in fields(Effects)})


def replicate_effect(
    per_replicate: npt.ArrayLike, item_variance: npt.ArrayLike, limits: tuple[float, float] = (-np.inf, np.inf)
) -> Effects:
    """Mean of any statistic of each replicate (..., replicates), by the same rule as `crossed_effects`.

    `item_variance` (...) is the part of the mean's variance that its replicates share because their items are the
    same; a bootstrap over items of the mean itself has it (and a little more: the rest of each replicate).
    `replicate_sd` and the interval of the next replicate include the rest of the items' noise.
    """
    statistic = np.atleast_2d(np.asarray(per_replicate, dtype=np.float64))
    shared = np.broadcast_to(np.asarray(item_variance, dtype=np.float64), statistic.shape[:-1])
    if not (np.isfinite(statistic).all() and (shared >= 0).all()):
        raise UserError(
            f"found {per_replicate} with item variance {item_variance}; expected numbers, and no variance < 0"
        )
    count = statistic.shape[-1]
    spread = statistic.var(axis=-1, ddof=1) if count > 1 else np.full(shared.shape, np.nan)
    return effects(statistic.mean(axis=-1), spread, spread, shared, shared, count, np.inf, limits)


def checked(
    values: npt.ArrayLike, weights: npt.ArrayLike | None, clusters: npt.ArrayLike | None
) -> tuple[Array, Array, npt.NDArray[np.int64] | None]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 3 or 0 in array.shape[1:]:
        raise UserError(f"found values of shape {array.shape}; expected (contrasts, replicates, items), none empty")
    not_finite = np.argwhere(~np.isfinite(array))
    if len(not_finite):
        contrast, replicate, item = (int(i) for i in not_finite[0])
        raise UserError(
            f"value of contrast {contrast}, replicate {replicate}, item {item} is {array[contrast, replicate, item]} "
            f"({len(not_finite)} such values); expected finite numbers: leave out the contrast or evaluate it again"
        )
    items = array.shape[2]
    weight = np.ones(items) if weights is None else np.asarray(weights, dtype=np.float64)
    if weight.shape != (items,) or not (np.isfinite(weight) & (weight > 0)).all():
        raise UserError(f"found weights of shape {weight.shape}; expected a positive number for each of {items} items")
    if clusters is None:
        return array, weight, None
    codes = np.asarray(clusters)
    if codes.shape != (items,):
        raise UserError(f"found clusters of shape {codes.shape}; expected a code for each of {items} items")
    return array, weight, codes


def chunk_effects(values: Array, weight: Array, limits: tuple[float, float]) -> Effects:
    """Effects of `values` (contrasts, replicates, units), whose `weight` is (units,)."""
    _, replicates, units = values.shape
    per_replicate = values.sum(axis=-1) / weight.sum()  # (contrasts, replicates)
    # Deviations of the units from their replicate's effect, in the effect's unit: of mean zero in each replicate.
    deviations = (values - per_replicate[..., None] * weight) / weight.mean()
    tiny = np.square(ROUNDING * np.abs(values).max(axis=(1, 2)) / weight.mean())
    nothing = np.full(len(values), np.nan)
    mean_square_items = mean_square_rest = mean_square_replicates = nothing
    if units > 1:
        of_units = deviations.mean(axis=1)  # (contrasts, units)
        mean_square_items = zeroed(replicates * np.square(of_units).sum(axis=-1) / (units - 1), tiny)
        if replicates > 1:
            deviations -= of_units[:, None]
            squares = np.einsum("cru,cru->c", deviations, deviations)
            mean_square_rest = zeroed(squares / ((replicates - 1) * (units - 1)), tiny)
            mean_square_replicates = zeroed(units * per_replicate.var(axis=-1, ddof=1), tiny)
    if replicates == 1:
        shared = one = mean_square_items / units
    else:
        shared = np.maximum(mean_square_items - mean_square_rest, 0) / (replicates * units)
        one = (mean_square_items + (replicates - 1) * mean_square_rest) / (replicates * units)
    return effects(
        mean=per_replicate.mean(axis=-1),
        spread=mean_square_replicates / units,
        beyond_items=np.maximum(mean_square_replicates - mean_square_rest, 0) / units,
        shared=shared,
        of_one=one,
        replicates=replicates,
        units=units,
        limits=limits,
    )


def zeroed(mean_square: Array, tiny: Array) -> Array:
    return np.where(mean_square <= tiny, 0.0, mean_square)


def effects(
    mean: Array,
    spread: Array,
    beyond_items: Array,
    shared: Array,
    of_one: Array,
    replicates: int,
    units: float,
    limits: tuple[float, float],
) -> Effects:
    """Effects from the variance between replicates (`spread`), of which `beyond_items` is not from items' noise, from
    the variance of the mean that replicates share, and from the variance over items of one replicate."""
    if replicates == 1:
        spread, df_between = np.zeros_like(spread), np.inf
    else:
        df_between = replicates - 1.0
    df_shared = max(units - 1.0, 1.0)
    between = spread / replicates
    error = np.sqrt(between + shared)
    reach = half_width(LEVEL, between, shared, df_between, df_shared)
    further = t_quantile(df_between, LEVEL) * np.sqrt(spread * (1 + 1 / replicates))
    untested = np.full_like(mean, np.nan)
    is_tested = replicates > 1
    return Effects(
        mean=mean,
        standard_error=error,
        df=degrees_of_freedom(error, reach, df_between, df_shared) if is_tested else untested,
        ci_low=np.clip(mean - reach, *limits),
        ci_high=np.clip(mean + reach, *limits),
        p_value=p_values(mean, between, shared, df_between, df_shared) if is_tested else untested,
        item_error=np.sqrt(of_one),
        replicate_sd=np.sqrt(beyond_items),
        next_low=np.clip(mean - further, *limits) if is_tested else untested,
        next_high=np.clip(mean + further, *limits) if is_tested else untested,
        replicates=np.full(len(mean), replicates),
        items=np.full(len(mean), units if np.isfinite(units) else 0, dtype=np.int64),
    )


def t_quantile(df: float, level: Array | float) -> Array:
    """Of the two-sided `level`."""
    tail = np.asarray(level) / 2
    return -(special.ndtri(tail) if np.isinf(df) else special.stdtrit(df, tail))


def half_width(level: Array | float, between: Array, shared: Array, df_between: float, df_shared: float) -> Array:
    squares = np.square(t_quantile(df_between, level)) * between + np.square(t_quantile(df_shared, level)) * shared
    return np.sqrt(squares)


def degrees_of_freedom(error: Array, reach: Array, df_between: float, df_shared: float) -> Array:
    """Those of the t distribution of which `reach` is the 95% quantile, in units of `error`."""
    low, high = sorted((df_between, df_shared))
    ratio = np.divide(reach, error, out=np.full_like(error, np.nan), where=error > 0)
    is_between = np.isfinite(ratio) & (ratio > t_quantile(high, LEVEL)) & (ratio < t_quantile(low, LEVEL))
    df = np.where(np.isnan(ratio), np.nan, np.where(ratio >= t_quantile(low, LEVEL), low, high))
    df[is_between] = special.stdtridf(1 - LEVEL / 2, ratio[is_between])
    return df


def p_values(mean: Array, between: Array, shared: Array, df_between: float, df_shared: float) -> Array:
    """The level at which the half width is the mean's distance from zero, by bisection of its logarithm."""
    p_value = np.full_like(mean, np.nan)
    varies = between + shared > 0
    distance, between, shared = np.abs(mean[varies]), between[varies], shared[varies]
    low, high = np.full_like(distance, np.log(SMALLEST_P)), np.zeros_like(distance)
    for _ in range(50):
        middle = (low + high) / 2
        is_wider = half_width(np.exp(middle), between, shared, df_between, df_shared) > distance
        low, high = np.where(is_wider, middle, low), np.where(is_wider, high, middle)
    p_value[varies] = np.exp(high)
    return p_value
