"""Effects measured in several replicates on the same items: both vary, crossed.

Replicates are pre-training runs or fine-tuning seeds. The contribution of item i in replicate r is

    value[r, i] = effect + run[r] + item[i] + rest[r, i]        variances s2_R, s2_I, s2_RI

so that the mean of R replicates of n items has the variance s2_R / R + s2_I / n + s2_RI / (R n), which expected mean
squares estimate without bias as (MS_R + MS_I - MS_RI) / (R n) (Obuchowski and Rockette 1995, Hillis 2007). Of its two
parts, of replicates MS_R / (R n) and of items max(MS_I - MS_RI, 0) / (R n), intervals and p-values follow as in
`error_parts`.

Every contrast has a variance of its own. Moderated variances (Smyth 2004), drawn together over contrasts, would gain
power with three replicates, but contrasts of the same runs vary together, and not all alike: then 13% of tests at 5%
err where all share the runs' effects, and 10 to 20% of those whose runs vary more than the others'.
"""

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from analysis.inference.error_parts import LEVEL, Array, ErrorParts, t_quantile
from open_instruct.common.errors import UserError

CHUNK_ELEMENTS = 1 << 21
"""Values per chunk of contrasts: bounds the memory for intermediate results."""
ROUNDING = 1e-12
"""Deviations smaller than this, relative to the largest value, are rounding."""


@dataclass(frozen=True)
class Effects:
    """Effects with their uncertainty over replicates and items: arrays (contrasts,), in the unit of the values.

    With one replicate `standard_error` and the interval are over items alone, and there is no test.
    """

    mean: Array
    standard_error: Array
    df: Array
    """Of the t distribution by which standard error and 95% interval (of unskewed items) agree."""
    ci_low: Array
    ci_high: Array
    p_value: Array
    """Two-sided, of no effect; where nothing varies at all, of a sign test of the items."""
    skew: Array
    """Skewness of the mean, by which p-value and interval are corrected (`equivalent` takes it)."""
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

    With `weights` (items,) an effect is sum(values) / sum(weights), for instance bits by bytes. Its errors are
    linearised, with the jackknife's factor, and unequal weights count as fewer items: sum(w)^2 / sum(w^2) of them
    (Kish 1965). Items of one code in `clusters` (items,) vary together: their sums are the units.
    Intervals are clipped to `limits`.  Raises UserError for other shapes, and values or weights that are not numbers.
    """
    array = checked_values(values)
    items = array.shape[2]
    weight = np.ones(items) if weights is None else np.asarray(weights, dtype=np.float64)
    if weight.shape != (items,) or not (np.isfinite(weight) & (weight > 0)).all():
        raise UserError(f"found weights of shape {weight.shape}; expected a positive number for each of {items} items")
    order, starts = np.arange(items), np.arange(items)
    if clusters is not None:
        codes = np.asarray(clusters)
        if codes.shape != (items,):
            raise UserError(f"found clusters of shape {codes.shape}; expected a code for each of {items} items")
        order = np.argsort(codes, kind="stable")
        starts = np.unique(codes[order], return_index=True)[1]
        weight = np.add.reduceat(weight[order], starts)
    rows = max(1, CHUNK_ELEMENTS // (array.shape[1] * items))
    chunks = []
    for start in range(0, max(1, len(array)), rows):
        chunk = array[start : start + rows]
        if clusters is not None:
            chunk = np.add.reduceat(chunk[..., order], starts, axis=-1)
        chunks.append(chunk_effects(chunk, weight, limits))
    return Effects(**{f.name: np.concatenate([getattr(chunk, f.name) for chunk in chunks]) for f in fields(Effects)})


def replicate_effect(
    per_replicate: npt.ArrayLike, item_variance: npt.ArrayLike, limits: tuple[float, float] = (-np.inf, np.inf)
) -> Effects:
    """Mean of any statistic of replicates (contrasts, replicates), or (replicates,), by the rule of `crossed_effects`.

    `item_variance` (contrasts,) or a number: the part of the mean's variance that replicates share because they have
    the same items; a bootstrap over items of the mean itself shows it, and a little more (the rest of each replicate).
    Here `item_error` is its root, and `replicate_sd` includes the rest. `items` is 0.
    Raises UserError for numbers that are not finite, and variances below zero.
    """
    statistic = np.atleast_2d(np.asarray(per_replicate, dtype=np.float64))
    contrasts, replicates = statistic.shape
    shared = np.broadcast_to(np.asarray(item_variance, dtype=np.float64), contrasts).copy()
    if not (np.isfinite(statistic).all() and np.isfinite(shared).all() and (shared >= 0).all()):
        raise UserError(
            f"found {per_replicate}, item variance {item_variance}; expected finite numbers, no variance < 0"
        )
    spread = statistic.var(axis=-1, ddof=1) if replicates > 1 else np.zeros(contrasts)
    parts = ErrorParts(spread / replicates, shared, shared, np.zeros(contrasts), df_of(replicates), np.inf)
    return effects(statistic.mean(axis=-1), parts, np.sqrt(shared), np.sqrt(spread), replicates, 0, limits)


def checked_values(values: npt.ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 3 or 0 in array.shape[1:]:
        raise UserError(f"found values of shape {array.shape}; expected (contrasts, replicates, items), none empty")
    # A sum is finite where all are, without an array of booleans as large as the values.
    not_finite = np.argwhere(~np.isfinite(array)) if not np.isfinite(array.sum()) else []
    if len(not_finite):
        contrast, replicate, item = (int(i) for i in not_finite[0])
        raise UserError(
            f"value of contrast {contrast}, replicate {replicate}, item {item} is {array[contrast, replicate, item]} "
            f"({len(not_finite)} such values); expected finite numbers: leave out the contrast or evaluate it again"
        )
    return array


def chunk_effects(values: Array, weight: Array, limits: tuple[float, float]) -> Effects:
    """Effects of `values` (contrasts, replicates, units), whose `weight` is (units,)."""
    contrasts, replicates, units = values.shape
    per_replicate = values.sum(axis=-1) / weight.sum()  # (contrasts, replicates)
    mean = per_replicate.mean(axis=-1)
    # Deviations of the units from their replicate's effect, in the effect's unit. A unit of much weight draws the
    # effect towards itself; the last factor makes up for that as the jackknife does (1 where weights are equal).
    share = weight / weight.sum()
    deviations = values - per_replicate[..., None] * weight
    deviations *= (1 - 1 / units) / (1 - share) / weight.mean() if units > 1 else 1.0
    of_units = deviations.mean(axis=1)  # (contrasts, units)
    deviations -= of_units[:, None]
    rounding = np.square(ROUNDING * np.abs(values).max(axis=(1, 2)) / weight.mean())

    def mean_square(total: Array, df: int) -> Array:
        return np.where(total <= rounding, 0.0, total / df) if df else np.full(contrasts, np.nan)

    squares = np.square(of_units)
    of_items = mean_square(replicates * squares.sum(axis=-1), units - 1)
    rest = between = np.zeros(contrasts)
    if replicates > 1:
        rest = mean_square(np.einsum("cru,cru->c", deviations, deviations), (replicates - 1) * (units - 1))
        between = mean_square(units * np.square(per_replicate - mean[:, None]).sum(axis=-1), replicates - 1)
    third, second = (squares * of_units).mean(axis=-1), squares.mean(axis=-1)
    parts = ErrorParts(
        between=between / (replicates * units),
        shared=np.maximum(of_items - rest, 0) / (replicates * units),
        items=of_items / (replicates * units),
        skewness=np.divide(third, second**1.5 * units**0.5, out=np.zeros(contrasts), where=second > rounding),
        df_between=df_of(replicates),
        df_items=max(1 / np.square(share).sum() - 1, 1.0),
    )
    of_one = (of_items + (replicates - 1) * rest) / (replicates * units)
    beyond = np.maximum(between - rest, 0) / units
    return effects(mean, parts, np.sqrt(of_one), np.sqrt(beyond), replicates, units, limits)


def df_of(replicates: int) -> float:
    return replicates - 1 if replicates > 1 else np.inf


def effects(
    mean: Array,
    parts: ErrorParts,
    item_error: Array,
    replicate_sd: Array,
    replicates: int,
    items: int,
    limits: tuple[float, float],
) -> Effects:
    low, high = parts.interval(mean)
    untested = np.full_like(mean, np.nan)
    # A further replicate differs from the mean of R by its own variance, R times that of the mean, and the mean's.
    further = t_quantile(parts.df_between, LEVEL) * np.sqrt(parts.between * (replicates + 1))
    is_tested = replicates > 1
    return Effects(
        mean=mean,
        standard_error=parts.standard_error,
        df=parts.degrees_of_freedom() if is_tested else untested,
        ci_low=np.clip(low, *limits),
        ci_high=np.clip(high, *limits),
        p_value=parts.p_value(mean) if is_tested else untested,
        skew=parts.skew,
        item_error=item_error,
        replicate_sd=replicate_sd if is_tested else untested,
        next_low=np.clip(mean - further, *limits) if is_tested else untested,
        next_high=np.clip(mean + further, *limits) if is_tested else untested,
        replicates=np.full(len(mean), replicates),
        items=np.full(len(mean), items),
    )
