"""Sensitivity to the prompt format: the variance between formats, less its noise.

Of each model, the variance component of formats crossed with items: the mean square between formats minus that of the
interaction of formats and items, over the number of items. Noise alone gives zero on average, however large it is,
which is not so of the range of the formats' means. Its jackknife pseudo-values over items (Efron and Stein 1981) stand
for a value of each item, so that differences and slopes of this variance are tested as those of any score.

Whether formats differ at all is tested by permuting the formats within each item, the same in all models, which keeps
every item's values (Friedman's design). Under that permutation the sums of squares of all models are jointly a
quadratic form of normal variables, whose tail is taken from the scaled chi-squared distribution of equal mean and
variance (Satterthwaite 1946).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from analysis.inference.crossed import crossed_effects
from analysis.inference.item_values import ItemValues
from analysis.tables.gathering import Key
from analysis.tables.measurements import Cell

ALL_FORMATS = "formats"
"""In a key, in place of one format."""
FEWEST_ITEMS = 3
Array = npt.NDArray[np.float64]


def format_cells(items: ItemValues, formats: Sequence[str]) -> dict[Key, dict[str, dict[str, Cell]]]:
    """Pseudo-values of the variance between formats, of each model that has all of them on the same items."""
    cells: dict[Key, dict[str, dict[str, Cell]]] = {}
    for key, replicate in items.cells:
        series, checkpoint, task_format = key
        if task_format != formats[0]:
            continue
        keys = [(series, checkpoint, name) for name in formats]
        if items.problem(keys, [replicate]) or items.fault(keys, [replicate]):
            continue
        shared = items.about(keys, [replicate])
        values, weights = summed(items.values(keys, [replicate])[:, 0], shared)
        if len(weights) >= FEWEST_ITEMS:
            ids = tuple(map(str, range(len(weights))))
            found = Cell(ids, pseudo_values(values, weights), None)
            cells.setdefault((series, checkpoint, ALL_FORMATS), {})[replicate] = {"": found}
    return cells


def summed(values: Array, shared: Cell) -> tuple[Array, Array]:
    """Values (formats, items) and weights (items,), summed over the items of each cluster."""
    weights = np.ones(values.shape[1]) if shared.weights is None else shared.weights
    if shared.clusters is None:
        return values, weights
    codes = np.unique(shared.clusters, return_inverse=True)[1]
    member = np.eye(codes.max() + 1)[codes]  # (items, clusters)
    return values @ member, weights @ member


def pseudo_values(values: Array, weights: Array) -> Array:
    """n v - (n - 1) v without item i, of the variance between formats v.  (formats, items), (items,) -> (items,)"""
    n = len(weights)
    sums, total = values.sum(axis=1, keepdims=True), weights.sum()
    whole = variance_between(sums / total, noise_terms(values, weights).sum(), n, total)
    without = (sums - values) / (total - weights)  # (formats, items): means without item i
    terms = noise_terms(values, weights)
    # An item's residual from a mean that includes it is smaller by (n - 1) / n.
    rest = terms.sum() - terms * n / (n - 1)
    left = variance_between(without, rest, n - 1, total - weights)
    return n * whole - (n - 1) * left


def noise_terms(values: Array, weights: Array) -> Array:
    """Sums over formats of the squared residuals from item and format.  -> (items,)"""
    centred = values - values.sum(axis=1, keepdims=True) / weights.sum() * weights
    return np.square(centred - centred.mean(axis=0)).sum(axis=0)


def variance_between(means: Array, noise: Array | float, n: int, total: Array | float) -> Array:
    """Variance component of formats.  means: (formats, …)"""
    degrees = len(means) - 1
    between = np.square(means - means.mean(axis=0)).sum(axis=0) / degrees
    return between - n / (n - 1) * noise / degrees / np.square(total)


def permutation_p_value(values: Array, weights: Array) -> float:
    """Whether formats differ, in any of several models.  (models, formats, items), (items,) -> p"""
    num_formats, total = values.shape[1], weights.sum()
    centred = values - values.mean(axis=1, keepdims=True)
    means = centred.sum(axis=2) / total  # (models, formats)
    found = float(np.square(means).sum())
    flat = centred.reshape(len(centred), -1)  # (models, formats * items)
    covariance = flat @ flat.T / total**2 / (num_formats - 1)
    mean, variance = np.trace(covariance), np.square(covariance).sum()
    if mean == 0:
        return 1.0
    return float(stats.chi2.sf(found * mean / variance, (num_formats - 1) * mean**2 / variance))


Keys = Mapping[str, Sequence[Key]]
"""Checkpoint -> key of each format."""


def series_p_value(items: ItemValues, keys: Keys, replicates: Sequence[str]) -> float | None:
    """The same of one series; None where something of it is missing."""
    found = models_of(items, keys, replicates)
    return None if found is None else permutation_p_value(*found)


def models_of(items: ItemValues, keys: Keys, replicates: Sequence[str]) -> tuple[Array, Array] | None:
    """Values (checkpoints * replicates, formats, units) and weights (units,); None where something is missing."""
    wanted = [key for of_checkpoint in keys.values() for key in of_checkpoint]
    if items.problem(wanted, replicates) or items.fault(wanted, replicates):
        return None
    shared = items.about(wanted, replicates)
    values = items.values(wanted, replicates)  # (checkpoints * formats, replicates, items)
    values = values.reshape(len(keys), -1, *values.shape[1:]).swapaxes(1, 2)
    of_each = [summed(model, shared) for model in values.reshape(-1, *values.shape[2:])]
    return np.stack([found for found, _ in of_each]), of_each[0][1]


def change_p_value(items: ItemValues, tuned: Keys, base: Keys, replicates: Sequence[str]) -> float | None:
    """p-value of the change of the variance between formats, its mean over checkpoints, if both were the larger one.

    Where formats seem to differ little by chance, the variance between them seems to have little noise: against a
    model with less noise per item up to 9% of tests at 5% err. Here the smaller of both has the noise that it would
    have if its formats differed as those of the other model do.
    """
    models = [models_of(items, keys, replicates) for keys in (tuned, base)]
    if models[0] is None or models[1] is None:
        return None
    weights = models[0][1]
    values = [found[0] for found in models if found]
    each = [np.stack([pseudo_values(model, weights) for model in of_one]) for of_one in values]  # (models, units)
    smaller = int(each[0].mean() > each[1].mean())
    means = [of_one.sum(axis=2) / weights.sum() for of_one in values]  # (models, formats)
    residuals = values[smaller] - means[smaller][..., None] * weights
    steps = means[1 - smaller] - means[1 - smaller].mean(axis=1, keepdims=True)
    scale = 2 * len(weights) / weights.sum() / (steps.shape[1] - 1)
    noise = scale * np.einsum("mf,mfi->mi", steps, residuals)
    each[smaller] = each[smaller].mean(axis=1, keepdims=True) + noise
    difference = (each[0] - each[1]).reshape(len(tuned), len(replicates), -1).mean(axis=0)
    return float(crossed_effects(difference[None]).p_value[0])
