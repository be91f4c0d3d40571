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


def series_p_value(items: ItemValues, keys: Mapping[str, Sequence[Key]], replicates: Sequence[str]) -> float | None:
    """The same of one series.  keys: checkpoint -> key of each format"""
    wanted = [key for of_checkpoint in keys.values() for key in of_checkpoint]
    if items.problem(wanted, replicates) or items.fault(wanted, replicates):
        return None
    shared = items.about(wanted, replicates)
    values = items.values(wanted, replicates)  # (checkpoints * formats, replicates, items)
    values = values.reshape(len(keys), -1, *values.shape[1:]).swapaxes(1, 2)
    models = values.reshape(-1, *values.shape[2:])  # (checkpoints * replicates, formats, items)
    of_each = [summed(model, shared) for model in models]
    return permutation_p_value(np.stack([found for found, _ in of_each]), of_each[0][1])
