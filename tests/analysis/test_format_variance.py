"""The variance between formats: unbiased, and its permutation test, against simulation and enumeration."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from analysis.inference.crossed import crossed_effects
from analysis.inference.format_variance import change_p_value, permutation_p_value, pseudo_values, summed
from analysis.inference.item_values import ItemValues
from analysis.tables.measurements import Cell


def test_the_mean_of_pseudo_values_is_the_variance_component():
    rng = np.random.default_rng(0)
    true, found = 0.05**2, []
    for _ in range(400):
        formats = 0.05 * rng.normal(size=(4, 1))
        values = formats + rng.normal(size=(1, 60)) + 0.4 * rng.normal(size=(4, 60))
        found.append(pseudo_values(values, np.ones(60)).mean())
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - true) < 3 * error
    assert error < true / 4


def test_noise_of_the_items_does_not_look_like_sensitivity():
    rng = np.random.default_rng(1)
    noisy = [pseudo_values(0.3 * rng.normal(size=(3, 80)), np.ones(80)).mean() for _ in range(300)]
    assert abs(np.mean(noisy)) < 3 * np.std(noisy) / np.sqrt(300)


def test_jackknife_is_that_of_leaving_out_each_item():
    rng = np.random.default_rng(2)
    values, weights = rng.normal(size=(3, 12)), rng.uniform(1, 3, 12)

    def component(values, weights):
        n = len(weights)
        means = values.sum(axis=1) / weights.sum()
        centred = values - means[:, None] * weights
        noise = np.square(centred - centred.mean(axis=0)).sum()
        between = np.square(means - means.mean()).sum() / 2
        return between - n / (n - 1) * noise / 2 / weights.sum() ** 2

    left = [component(np.delete(values, i, axis=1), np.delete(weights, i)) for i in range(12)]
    exact = 12 * component(values, weights) - 11 * np.array(left)
    # The noise term is taken as linear in the items.
    assert np.corrcoef(pseudo_values(values, weights), exact)[0, 1] > 0.98
    assert pseudo_values(values, weights).mean() == pytest.approx(exact.mean(), abs=0.02)


def test_p_value_is_near_that_of_random_permutations():
    rng = np.random.default_rng(3)
    items = rng.normal(size=(1, 1, 50))
    # Two models of the same items; formats differ a little.
    values = items + np.array([0.0, 0.15, 0.3])[None, :, None] + 0.5 * rng.normal(size=(2, 3, 50))

    def statistic(values):
        means = values.mean(axis=2)
        return np.square(means - means.mean(axis=1, keepdims=True)).sum()

    found, as_large, draws = statistic(values), 0, 2_000
    for _ in range(draws):
        order = np.argsort(rng.random((3, 50)), axis=0)
        as_large += statistic(np.take_along_axis(values, np.broadcast_to(order, values.shape), axis=1)) >= found
    assert permutation_p_value(values, np.ones(50)) == pytest.approx(as_large / draws, abs=0.02)


def test_equal_formats_have_no_p_value_below_one():
    values = np.broadcast_to(np.arange(10.0), (2, 3, 10))
    assert permutation_p_value(values, np.ones(10)) == 1.0


def test_clusters_are_summed():
    shared = Cell(tuple("abcd"), np.zeros(4), None, np.array([0, 0, 1, 0]))
    values, weights = summed(np.array([[1.0, 2.0, 4.0, 8.0]]), shared)
    assert values.tolist() == [[11.0, 4.0]]
    assert weights.tolist() == [3.0, 1.0]


def test_formats_that_differ_alike_are_no_change_however_unequal_the_noise():
    """Noise of items that all checkpoints and runs share makes one model's formats seem to differ less, or more."""
    rng = np.random.default_rng(0)
    ids, formats, checkpoints, replicates = tuple(map(str, range(50))), "abc", "123", "456789"
    studies, false, plain = 150, 0, 0
    for _ in range(studies):
        cells, of_models = {}, []
        for name, sd in (("base", 0.014), ("tuned", 0.14)):
            shared = rng.normal(size=(3, 50))
            values = rng.normal(size=(3, 6, 3, 50)) + shared  # (checkpoints, replicates, formats, items)
            values = 0.03 * np.array([0.0, -1.0, 1.0])[:, None] + sd / np.sqrt(2) * values
            for (c, checkpoint), (f, task_format) in product(enumerate(checkpoints), enumerate(formats)):
                of_cell = {r: {"": Cell(ids, values[c, i, f], None)} for i, r in enumerate(replicates)}
                cells[name, checkpoint, task_format] = of_cell
            models = values.reshape(-1, 3, 50)
            of_models.append(np.stack([pseudo_values(model, np.ones(50)) for model in models]).reshape(3, 6, 50))
        tuned, base = ({c: [(name, c, f) for f in formats] for c in checkpoints} for name in ("tuned", "base"))
        p_value = change_p_value(ItemValues(cells), tuned, base, list(replicates))
        p_plain = crossed_effects((of_models[1] - of_models[0]).mean(axis=0)[None]).p_value[0]
        false += max(p_value, p_plain) <= 0.05
        plain += p_plain <= 0.05
    assert false <= stats.binom.ppf(0.99, studies, 0.05)
    assert plain > false + 5
