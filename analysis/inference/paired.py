"""Contrasts of models on the same items: bootstrap intervals over items, p-values of sign-flip permutation tests.

The statistics are those of eval.metrics.paired_comparison.paired_difference, vectorised over thousands of contrasts. A
resample is a vector of how often each item was drawn, so the means of all models in all resamples are one matrix
product, and a contrast is a weighted sum of its rows. Item difficulty that all models share cancels.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse, stats

from analysis.inference.contrasts import Contrast, absent_cells
from analysis.tables.gathering import Key
from analysis.tables.measurements import Cell
from eval.metrics.bootstrap import CHUNK_ELEMENTS, NUM_RESAMPLES
from eval.metrics.significance import MOST_EXACT_FLIPS, MOST_RANDOM_FLIPS, NUM_FLIPS, sign_flip_p_value

CHUNK_CONTRASTS = 256
FLOAT_NOISE = 1e-12
SEED = 0
Array = npt.NDArray[np.float64]


def evaluate_paired(contrasts: Sequence[Contrast], cells: Mapping[Key, Cell]) -> list[dict[str, Any]]:
    """Compute difference, std, ci_low, ci_high, p_value and n of each contrast, or `missing`: why there are none."""
    group_of = same_items(cells)
    results: list[dict[str, Any]] = [{} for _ in contrasts]
    wanted: dict[int, list[int]] = {}
    for i, contrast in enumerate(contrasts):
        problem = absent_cells(contrast.keys, cells) or incomparable(contrast.keys, cells, group_of)
        if problem:
            results[i] = {"missing": problem}
        else:
            wanted.setdefault(group_of[contrast.keys[0]], []).append(i)
    for group, positions in wanted.items():
        resampled = Resampled({key: cell for key, cell in cells.items() if group_of[key] == group})
        linear = resampled.linear([contrasts[i].terms for i in positions if contrasts[i].terms])
        for i in positions:
            results[i] = next(linear) if contrasts[i].terms else resampled.spread(contrasts[i])
    return results


def same_items(cells: Mapping[Key, Cell]) -> dict[Key, int]:
    """Number each cell by its items and weights: cells with the same number can be compared."""
    numbers: dict[tuple[tuple[str, ...], bytes], int] = {}
    return {
        key: numbers.setdefault((c.ids, b"" if c.weights is None else c.weights.tobytes()), len(numbers))
        for key, c in cells.items()
    }


def incomparable(keys: Sequence[Key], cells: Mapping[Key, Cell], group_of: Mapping[Key, int]) -> str | None:
    """Why these cells cannot be compared, or None."""
    for key in keys[1:]:
        if group_of[key] != group_of[keys[0]]:
            first, other = cells[keys[0]], cells[key]
            if first.ids != other.ids:
                return f"other items: {len(first.ids)} in {' '.join(keys[0])}, {len(other.ids)} in {' '.join(key)}"
            return f"other completions in {' '.join(keys[0])} and {' '.join(key)}"
    return None


class Resampled:
    """Models evaluated on the same items, and their means in every resample."""

    def __init__(self, cells: Mapping[Key, Cell]) -> None:
        self.column = {key: i for i, key in enumerate(cells)}
        self.values = np.stack([cell.values for cell in cells.values()])  # (models, items)
        weights = next(iter(cells.values())).weights
        self.weights = np.ones(self.values.shape[1]) if weights is None else weights
        self.num_items = len(self.weights)
        self.means = self.values.sum(axis=1) / self.weights.sum()  # (models,)
        self.resampled = np.concatenate(list(self.resample_chunks()), axis=1)  # (models, resamples)

    def resample_chunks(self) -> Iterator[Array]:
        stacked = np.concatenate([self.values, self.weights[None]])  # (models + 1, items)
        for counts in counts_of(self.num_items) if self.num_items <= 2_000 else draw_counts(self.num_items):
            sums = stacked @ counts.T  # (models + 1, resamples of this chunk)
            yield sums[:-1] / sums[-1]

    def linear(self, terms: Sequence[Mapping[Key, float]]) -> Iterator[dict[str, Any]]:
        for start in range(0, len(terms), CHUNK_CONTRASTS):
            yield from self.linear_chunk(terms[start : start + CHUNK_CONTRASTS])

    def linear_chunk(self, terms: Sequence[Mapping[Key, float]]) -> Iterator[dict[str, Any]]:
        rows = [i for i, of_contrast in enumerate(terms) for _ in of_contrast]
        columns = [self.column[key] for of_contrast in terms for key in of_contrast]
        coefficients = [c for of_contrast in terms for c in of_contrast.values()]
        combine = sparse.csr_array((coefficients, (rows, columns)), shape=(len(terms), len(self.column)))
        differences = self.without_noise(combine @ self.values)  # (contrasts, items)
        means = differences.sum(axis=1) / self.weights.sum()
        if self.num_items == 1:
            nothing = np.full(len(terms), np.nan)
            errors, low, high = nothing, nothing, nothing
        else:
            residuals = differences - means[:, None] * self.weights
            spread = self.num_items / (self.num_items - 1) * np.square(residuals).sum(axis=1)
            errors = np.sqrt(spread) / self.weights.sum()
            low, high = self.without_noise(np.quantile(combine @ self.resampled, (0.025, 0.975), axis=1))
        p_values = sign_flip_p_values(differences)
        for values in zip(means, errors, low, high, p_values, strict=True):
            names = ("difference", "std", "ci_low", "ci_high", "p_value")
            yield dict(zip(names, map(float, values), strict=True)) | {"n": self.num_items}

    def without_noise(self, values: Array) -> Array:
        """Set values to zero that differ from it only by float rounding: their sign has no meaning."""
        return np.where(np.abs(values) <= FLOAT_NOISE * np.abs(self.values).max(), 0.0, values)

    def spread(self, contrast: Contrast) -> dict[str, Any]:
        """A single spread has no p-value, since it cannot be negative; a difference of spreads has one."""
        point, resampled = 0.0, np.zeros(NUM_RESAMPLES)
        for coefficient, keys in contrast.spreads:
            columns = [self.column[key] for key in keys]
            point += coefficient * np.ptp(self.means[columns])
            resampled = resampled + coefficient * np.ptp(self.resampled[columns], axis=0)
        point, resampled = float(self.without_noise(np.array(point))), self.without_noise(resampled)
        return spread_result(point, resampled, len(contrast.spreads) > 1) | {"n": self.num_items}


def spread_result(point: float, resampled: Array, is_difference: bool) -> dict[str, Any]:
    low, high = np.quantile(resampled, [0.025, 0.975])
    tail = min((resampled <= 0).sum(), (resampled >= 0).sum())
    return {
        "difference": point,
        "std": float(resampled.std(ddof=1)),
        "ci_low": float(low),
        "ci_high": float(high),
        "p_value": float(min(1.0, 2 * (tail + 1) / (len(resampled) + 1))) if is_difference else None,
    }


def draw_counts(num_items: int) -> Iterator[Array]:
    """How often each resample draws each item, in chunks (resamples, items), by the draws of eval.metrics.bootstrap."""
    rng = np.random.default_rng(SEED)
    num_rows = max(1, CHUNK_ELEMENTS // num_items)
    for start in range(0, NUM_RESAMPLES, num_rows):
        rows = min(num_rows, NUM_RESAMPLES - start)
        drawn = rng.integers(0, num_items, size=(rows, num_items)) + np.arange(rows)[:, None] * num_items
        yield np.bincount(drawn.ravel(), minlength=rows * num_items).reshape(rows, num_items).astype(float)


@lru_cache(maxsize=4)
def counts_of(num_items: int) -> list[Array]:
    return list(draw_counts(num_items))


@lru_cache(maxsize=4)
def random_signs(num_items: int) -> Array:
    """(flips, items), each 1 or -1."""
    return 2.0 * np.random.default_rng(SEED).integers(0, 2, size=(NUM_FLIPS, num_items)) - 1


def sign_flip_p_values(differences: Array) -> Array:
    """Compute sign_flip_p_value of every row of (contrasts, items); random flips are shared by all rows."""
    sizes = np.abs(differences)
    sizes[sizes <= 1e-12 * sizes.max(axis=1, keepdims=True)] = 0
    num_moved = (sizes > 0).sum(axis=1)
    largest = sizes.max(axis=1)
    smallest = np.where(sizes > 0, sizes, np.inf).min(axis=1, initial=np.inf)
    p_values = np.ones(len(differences))
    same_size = (num_moved > 0) & (largest - smallest <= 1e-9 * largest)
    # Differences of one size: McNemar's test, which is the binomial test at 1/2.
    num_plus = ((differences > 0) & (sizes > 0)).sum(axis=1)
    tail = stats.binom.cdf(np.minimum(num_plus, num_moved - num_plus), num_moved, 0.5)
    p_values[same_size] = np.minimum(1.0, 2 * tail[same_size])
    others = (num_moved > 0) & ~same_size
    by_flips = others & (num_moved > MOST_EXACT_FLIPS) & (num_moved <= MOST_RANDOM_FLIPS)
    for i in np.flatnonzero(others & ~by_flips):
        p_values[i] = sign_flip_p_value(differences[i])
    chosen = np.flatnonzero(by_flips)
    if len(chosen) and differences.shape[1] <= MOST_RANDOM_FLIPS:
        sums = np.abs(differences[chosen] @ random_signs(differences.shape[1]).T)  # (contrasts, flips)
        found = np.abs(differences[chosen].sum(axis=1)) - 1e-12 * sizes[chosen].sum(axis=1)
        p_values[chosen] = ((sums >= found[:, None]).sum(axis=1) + 1) / (NUM_FLIPS + 1)
    else:
        p_values[chosen] = [sign_flip_p_value(differences[i]) for i in chosen]
    return p_values
