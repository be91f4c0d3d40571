"""Intervals and tests, compared with scipy and with numbers worked out by hand."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from eval.metrics import bootstrap, paired_comparison, significance
from eval.metrics.item_metrics import macro_f1
from open_instruct.common.errors import UserError

RNG = np.random.default_rng(7)
SKEWED = RNG.gamma(0.5, size=40)
WEIGHTS = RNG.uniform(1, 9, size=40)


def ratio(values, weights, axis):
    return values.sum(axis=axis) / weights.sum(axis=axis)


@pytest.mark.parametrize(("method", "scipy_method"), [("percentile", "percentile"), ("bca", "BCa")])
def test_intervals_equal_scipys(method, scipy_method):
    how = {"n_resamples": 3_000, "method": scipy_method}
    mean = scipy_stats.bootstrap((SKEWED,), np.mean, rng=np.random.default_rng(3), **how)
    of_ratio = scipy_stats.bootstrap((SKEWED, WEIGHTS), ratio, paired=True, rng=np.random.default_rng(3), **how)
    ours = bootstrap.bootstrap_mean(SKEWED, seed=3, method=method)
    ours_of_ratio = bootstrap.bootstrap_mean(SKEWED, WEIGHTS, seed=3, method=method)
    assert (ours.ci_low, ours.ci_high) == pytest.approx(tuple(mean.confidence_interval), rel=1e-9)
    assert (ours_of_ratio.ci_low, ours_of_ratio.ci_high) == pytest.approx(tuple(of_ratio.confidence_interval), rel=1e-9)
    # Linearised, where scipy takes the deviation of the resamples.
    assert ours_of_ratio.standard_error == pytest.approx(of_ratio.standard_error, rel=0.1)


def test_mean_and_standard_error():
    # Deviations -1, 0, 1: sample variance 1, standard error 1 / sqrt(3).
    interval = bootstrap.bootstrap_mean([1, 2, 3])
    assert (interval.mean, interval.n) == (2, 3)
    assert interval.standard_error == pytest.approx(3**-0.5)


def test_weighted_mean_is_a_ratio_of_sums():
    # 8 bits over 4 bytes, not the mean of 6/1 and 2/3.
    assert bootstrap.bootstrap_mean([6, 2], [1, 3]).mean == 2


def test_interval_does_not_depend_on_the_chunk_size(monkeypatch):
    in_one_chunk = bootstrap.bootstrap_mean(SKEWED)
    monkeypatch.setattr(bootstrap, "CHUNK_ELEMENTS", 100)
    assert bootstrap.bootstrap_mean(SKEWED) == in_one_chunk


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_interval_of_equal_values_has_no_width(method):
    interval = bootstrap.bootstrap_mean([0.1] * 7, method=method)
    values = (interval.mean, interval.standard_error, interval.ci_low, interval.ci_high)
    assert values == pytest.approx((0.1, 0, 0.1, 0.1))


def test_single_item_has_no_standard_error_and_no_interval():
    interval = bootstrap.bootstrap_mean([0.25])
    assert interval.mean == 0.25
    assert np.isnan([interval.standard_error, interval.ci_low, interval.ci_high]).all()


@pytest.mark.parametrize(
    ("values", "weights", "message"),
    [
        ([], None, "at least one item"),
        ([0.5, float("nan")], None, "value 1 is nan"),
        ([1, 2], [1], "found 1 weights for 2 values"),
        ([1, 2], [1, 0], "weight that is not a positive number"),
    ],
)
def test_invalid_values_and_weights_are_refused(values, weights, message):
    with pytest.raises(UserError, match=message):
        bootstrap.bootstrap_mean(values, weights)


def test_interval_covers_the_true_mean_in_about_95_percent_of_samples():
    samples = np.random.default_rng(0).normal(5, 1, size=(200, 60))
    intervals = [bootstrap.bootstrap_mean(sample, num_resamples=400) for sample in samples]
    covered = sum(i.ci_low <= 5 <= i.ci_high for i in intervals)
    # Expected 190 at best; the percentile interval of 60 items falls a little short.
    assert 178 <= covered <= 199


def test_interval_of_a_table_equals_that_of_its_items():
    # 30 of 40 are correct: accuracy is the mean of forty zeros and ones.
    counts = np.array([[20, 4], [6, 10]])
    accuracy = bootstrap.bootstrap_table(counts, lambda c: np.trace(c, axis1=-2, axis2=-1) / c.sum(axis=(-2, -1)))
    of_items = bootstrap.bootstrap_mean([1] * 30 + [0] * 10)
    assert accuracy.mean == of_items.mean == 0.75
    assert accuracy.standard_error == pytest.approx(of_items.standard_error, rel=0.05)
    assert (accuracy.ci_low, accuracy.ci_high) == pytest.approx((of_items.ci_low, of_items.ci_high), abs=0.026)


def test_interval_of_macro_f1_contains_its_mean():
    interval = bootstrap.bootstrap_table(np.array([[20, 4], [6, 10]]), macro_f1)
    assert 0 < interval.ci_low < interval.mean < interval.ci_high < 1
    assert interval.n == 40


def test_table_of_zeros_is_refused():
    with pytest.raises(UserError, match="table of zeros"):
        bootstrap.bootstrap_table(np.zeros((2, 2), dtype=np.int64), macro_f1)


def test_item_difficulty_cancels_in_a_paired_difference():
    difficulty = RNG.normal(0, 100, size=50)
    difference = paired_comparison.paired_difference(difficulty + 1, difficulty)
    assert difference.mean == pytest.approx(1)
    assert difference.ci_high - difference.ci_low < 1e-9
    # All 50 differences have one sign: 2 / 2^50.
    assert difference.p_value == pytest.approx(2**-49)


def test_weighted_difference_is_a_difference_of_ratios():
    # (6 + 2) / 4 - (1 + 3) / 4.
    assert paired_comparison.paired_difference([6, 2], [1, 3], [1, 3]).mean == 1


def test_identical_values_have_no_difference():
    difference = paired_comparison.paired_difference(SKEWED, SKEWED)
    assert (difference.mean, difference.standard_error, difference.p_value) == (0, 0, 1)


@pytest.mark.parametrize("num_items", [4, 10, significance.MOST_EXACT_FLIPS])
def test_p_value_of_few_differences_equals_scipys_permutation_test(num_items):
    a, b = RNG.normal(0.5, 1, size=num_items), RNG.normal(0, 1, size=num_items)
    expected = scipy_stats.permutation_test(
        (a, b), lambda x, y, axis: (x - y).mean(axis=axis), permutation_type="samples", n_resamples=2**20
    )
    assert paired_comparison.paired_difference(a, b).p_value == pytest.approx(expected.pvalue, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_items", [significance.MOST_EXACT_FLIPS + 1, 100, significance.MOST_RANDOM_FLIPS + 1])
def test_p_value_of_many_differences_is_close_to_all_sign_flips(num_items, seed):
    # Heavy tails: a few differences dominate the sum, which is far from normal where there are not many.
    differences = np.random.default_rng(seed).exponential(size=num_items) ** 2 - 1.5
    signs = np.random.default_rng(1).choice([-1.0, 1.0], size=(20_000, num_items))
    expected = (np.abs(signs @ np.abs(differences)) >= abs(differences.sum())).mean()
    # Four standard deviations of the two random samples.
    assert significance.sign_flip_p_value(differences) == pytest.approx(expected, abs=4 * 0.5 * (1e-4 + 0.5e-4) ** 0.5)


def test_p_value_of_correct_or_wrong_items_is_mcnemars():
    a, b = [1] * 8 + [0] * 2 + [1] * 5, [0] * 8 + [1] * 2 + [1] * 5
    # Eight against two of ten discordant items: 2 * (1 + 10 + 45) / 2^10.
    assert paired_comparison.paired_difference(a, b).p_value == pytest.approx(112 / 1024)


def test_different_numbers_of_items_are_refused():
    with pytest.raises(UserError, match="same items in both"):
        paired_comparison.paired_difference([1, 2], [1])
