import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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
def test_intervals_are_those_of_scipy(method, scipy_method):
    how = {"n_resamples": 3_000, "method": scipy_method}
    mean = scipy_stats.bootstrap((SKEWED,), np.mean, rng=np.random.default_rng(3), **how)
    of_ratio = scipy_stats.bootstrap((SKEWED, WEIGHTS), ratio, paired=True, rng=np.random.default_rng(3), **how)
    ours = bootstrap.bootstrap_mean(SKEWED, seed=3, method=method)
    ours_of_ratio = bootstrap.bootstrap_mean(SKEWED, WEIGHTS, seed=3, method=method)
    assert (ours.ci_low, ours.ci_high) == pytest.approx(tuple(mean.confidence_interval), rel=1e-9)
    assert (ours_of_ratio.ci_low, ours_of_ratio.ci_high) == pytest.approx(tuple(of_ratio.confidence_interval), rel=1e-9)
    # Linearised, where scipy takes the deviation of the resamples.
    assert ours_of_ratio.standard_error == pytest.approx(of_ratio.standard_error, rel=0.1)


def test_mean_and_standard_error_by_hand():
    # Deviations -1, 0, 1: sample variance 1, standard error 1 / sqrt(3).
    interval = bootstrap.bootstrap_mean([1, 2, 3])
    assert (interval.mean, interval.n) == (2, 3)
    assert interval.standard_error == pytest.approx(3**-0.5)


def test_weights_make_a_ratio_of_sums():
    # 8 bits over 4 bytes, not the mean of 6/1 and 2/3.
    assert bootstrap.bootstrap_mean([6, 2], [1, 3]).mean == 2


def test_the_interval_does_not_depend_on_how_many_resamples_are_held_at_once(monkeypatch):
    at_once = bootstrap.bootstrap_mean(SKEWED)
    monkeypatch.setattr(bootstrap, "CHUNK_ELEMENTS", 100)
    assert bootstrap.bootstrap_mean(SKEWED) == at_once


def test_a_lower_confidence_is_narrower():
    wide, narrow = bootstrap.bootstrap_mean(SKEWED), bootstrap.bootstrap_mean(SKEWED, confidence=0.9)
    assert wide.ci_low < narrow.ci_low < narrow.mean < narrow.ci_high < wide.ci_high


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_items_that_agree_leave_no_doubt(method):
    interval = bootstrap.bootstrap_mean([0.1] * 7, method=method)
    values = (interval.mean, interval.standard_error, interval.ci_low, interval.ci_high)
    assert values == pytest.approx((0.1, 0, 0.1, 0.1))


def test_of_a_single_item_the_spread_is_unknown():
    interval = bootstrap.bootstrap_mean([0.25])
    assert interval.mean == 0.25
    assert np.isnan([interval.standard_error, interval.ci_low, interval.ci_high]).all()


@pytest.mark.parametrize(
    ("values", "weights", "message"),
    [
        ([], None, "an item at least"),
        ([0.5, float("nan")], None, "value 1 is nan"),
        ([1, 2], [1], "found 1 weights for 2 values"),
        ([1, 2], [1, 0], "weight that is not a positive number"),
    ],
)
def test_values_that_cannot_be_averaged_are_refused(values, weights, message):
    with pytest.raises(UserError, match=message):
        bootstrap.bootstrap_mean(values, weights)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    samples = np.random.default_rng(0).normal(5, 1, size=(200, 60))
    intervals = [bootstrap.bootstrap_mean(sample, num_resamples=400) for sample in samples]
    covered = sum(i.ci_low <= 5 <= i.ci_high for i in intervals)
    # Expected 190 at best; the percentile interval of 60 items falls a little short.
    assert 178 <= covered <= 199


def test_a_table_is_resampled_as_its_items_are():
    # 30 right of 40: the share on the diagonal is a mean of forty zeros and ones.
    counts = np.array([[20, 4], [6, 10]])
    accuracy = bootstrap.bootstrap_table(counts, lambda c: np.trace(c, axis1=-2, axis2=-1) / c.sum(axis=(-2, -1)))
    of_items = bootstrap.bootstrap_mean([1] * 30 + [0] * 10)
    assert accuracy.mean == of_items.mean == 0.75
    assert accuracy.standard_error == pytest.approx(of_items.standard_error, rel=0.05)
    assert (accuracy.ci_low, accuracy.ci_high) == pytest.approx((of_items.ci_low, of_items.ci_high), abs=0.026)


def test_the_interval_of_macro_f1_holds_its_mean():
    interval = bootstrap.bootstrap_table(np.array([[20, 4], [6, 10]]), macro_f1)
    assert 0 < interval.ci_low < interval.mean < interval.ci_high < 1
    assert interval.n == 40


def test_an_empty_table_is_refused():
    with pytest.raises(UserError, match="table of zeros"):
        bootstrap.bootstrap_table(np.zeros((2, 2), dtype=np.int64), macro_f1)


def test_what_is_hard_for_both_cancels_in_the_difference():
    difficulty = RNG.normal(0, 100, size=50)
    difference = paired_comparison.paired_difference(difficulty + 1, difficulty)
    assert difference.mean == pytest.approx(1)
    assert difference.ci_high - difference.ci_low < 1e-9
    # All 50 differences point one way: 2 / 2^50.
    assert difference.p_value == pytest.approx(2**-49)


def test_difference_of_ratios():
    # (6 + 2) / 4 - (1 + 3) / 4.
    assert paired_comparison.paired_difference([6, 2], [1, 3], [1, 3]).mean == 1


def test_a_model_does_not_differ_from_itself():
    difference = paired_comparison.paired_difference(SKEWED, SKEWED)
    assert (difference.mean, difference.standard_error, difference.p_value) == (0, 0, 1)


@pytest.mark.parametrize("num_items", [4, 10, significance.MOST_EXACT_FLIPS])
def test_few_differences_are_tested_exactly_as_scipy_does(num_items):
    a, b = RNG.normal(0.5, 1, size=num_items), RNG.normal(0, 1, size=num_items)
    expected = scipy_stats.permutation_test(
        (a, b), lambda x, y, axis: (x - y).mean(axis=axis), permutation_type="samples", n_resamples=2**20
    )
    assert paired_comparison.paired_difference(a, b).p_value == pytest.approx(expected.pvalue, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_items", [significance.MOST_EXACT_FLIPS + 1, 100, significance.MOST_RANDOM_FLIPS + 1])
def test_many_differences_are_tested_close_to_all_sign_flips(num_items, seed):
    # Of heavy tails: a few differences rule the sum, which is then far from normal where there are not many.
    differences = np.random.default_rng(seed).exponential(size=num_items) ** 2 - 1.5
    signs = np.random.default_rng(1).choice([-1.0, 1.0], size=(20_000, num_items))
    expected = (np.abs(signs @ np.abs(differences)) >= abs(differences.sum())).mean()
    # Four standard deviations of the two random samples.
    assert significance.sign_flip_p_value(differences) == pytest.approx(expected, abs=4 * 0.5 * (1e-4 + 0.5e-4) ** 0.5)


def test_for_right_or_wrong_the_difference_is_tested_by_mcnemar():
    a, b = [1] * 8 + [0] * 2 + [1] * 5, [0] * 8 + [1] * 2 + [1] * 5
    # Eight against two of ten discordant items: 2 * (1 + 10 + 45) / 2^10.
    assert significance.mcnemar(a, b) == pytest.approx(112 / 1024)
    assert paired_comparison.paired_difference(a, b).p_value == pytest.approx(112 / 1024)


def test_mcnemar_without_discordant_items_and_with_other_values():
    assert significance.mcnemar([1, 0], [1, 0]) == 1
    with pytest.raises(UserError, match="expected 0 or 1"):
        significance.mcnemar([0.5], [1])


def test_different_items_are_not_compared():
    with pytest.raises(UserError, match="same items in both"):
        paired_comparison.paired_difference([1, 2], [1])


def test_a_rising_line():
    # Of 4! orders, only all-rising and all-falling agree as much.
    rising = significance.trend([1_000, 2_000, 3_000, 4_000], [0.1, 0.3, 0.5, 0.7])
    assert (rising.tau, rising.p_value) == (1, pytest.approx(2 / 24))
    assert rising.slope == pytest.approx(0.0002)


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(6)))
def test_exact_trend_is_that_of_scipy_without_ties(order):
    ours = significance.trend(range(6), order)
    assert (ours.tau, ours.p_value) == pytest.approx(tuple(scipy_stats.kendalltau(range(6), order, method="exact")))


def test_with_ties_every_order_is_counted():
    y = [0, 0, 1, 1]
    # The six places of the two ones: agreement 4, 2, 0, 0, -2, -4; two of six reach 4.
    assert significance.trend(range(4), y).p_value == pytest.approx(2 / 6)
    assert significance.trend(range(4), y).tau == pytest.approx(4 / np.sqrt(6 * 4))


def test_a_long_trend_is_that_of_scipy():
    x, y = np.arange(30), np.arange(30) + RNG.normal(0, 20, size=30)
    ours = significance.trend(x, y)
    assert (ours.tau, ours.p_value) == pytest.approx(tuple(scipy_stats.kendalltau(x, y)))
    assert ours.slope == pytest.approx(np.polyfit(x, y, 1)[0])


def test_what_never_changes_has_no_trend():
    assert significance.trend([1, 2, 3], [0.5, 0.5, 0.5]) == significance.Trend(0, 1, 0)


@pytest.mark.parametrize(("x", "y"), [([1, 2], [1]), ([1, 1], [1, 2])])
def test_a_trend_needs_pairs_at_different_points(x, y):
    with pytest.raises(UserError, match="two different x"):
        significance.trend(x, y)


def test_holm_by_hand():
    # 0.01 * 3; 0.02 * 2; 0.5 * 1, in the order given.
    assert significance.holm([0.5, 0.01, 0.02]) == pytest.approx([0.5, 0.03, 0.04])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_rejects_what_its_closed_test_rejects(p_values):
    """Holm is the closed test by Bonferroni: adjusted p = max over subsets with i of min(1, size * smallest p)."""
    indices = range(len(p_values))
    for i, adjusted in enumerate(significance.holm(p_values)):
        subsets = [s for k in indices for s in itertools.combinations(indices, k + 1) if i in s]
        assert adjusted == pytest.approx(max(min(1, len(s) * min(p_values[j] for j in s)) for s in subsets))
