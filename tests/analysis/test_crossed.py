"""Crossed random effects: against other programs, against leave-one-out sums, and by simulated studies of no effect."""

import warnings
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from statsmodels.formula.api import ols

import analysis.inference.crossed as crossed
from analysis.inference.crossed import Effects, crossed_effects, replicate_effect
from analysis.inference.error_parts import ErrorParts, cubed, uncubed
from eval.metrics.bootstrap import standard_error
from open_instruct.common.errors import UserError

STUDIES = 4000
LIMIT = 0.05 + stats.norm.isf(0.01) * np.sqrt(0.05 * 0.95 / STUDIES)
"""More simulated studies than this err in less than 1% of simulations where 5% of studies err."""


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def study(*, replicates=3, items=50, run_sd=0.0, shared=0.5, effect=0.0, draw=None, seed=0):
    """Values (STUDIES, replicates, items); `run_sd` and `effect` in standard errors over items of one replicate."""
    rng = np.random.default_rng(seed)
    draw = draw or (lambda rng, shape: rng.normal(size=shape))
    of_items = np.sqrt(shared) * draw(rng, (STUDIES, 1, items))
    rest = np.sqrt(1 - shared) * draw(rng, (STUDIES, replicates, items))
    runs = run_sd * rng.normal(size=(STUDIES, replicates, 1)) + effect
    return of_items + rest + runs / np.sqrt(items)


def lognormal(rng, shape):
    return (rng.lognormal(size=shape) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e)


def error_rate(effects: Effects, level: float = 0.05) -> float:
    return float((effects.p_value <= level).mean())


def same(a: Effects, b: Effects, names=None) -> None:
    for name in names or [f.name for f in fields(Effects)]:
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-7, atol=1e-12, err_msg=name)


def test_two_by_two_by_hand():
    effects = crossed_effects([[[1.0, 2.0], [3.0, 6.0]]])
    # Replicates 1.5 and 4.5: MS_R = 9; items 2 and 4: MS_I = 4; rest +-0.5: MS_RI = 1.
    assert effects.mean == pytest.approx(3)
    assert effects.standard_error == pytest.approx(np.sqrt((9 + 4 - 1) / 4))
    assert effects.replicate_sd == pytest.approx(np.sqrt((9 - 1) / 2))
    assert effects.item_error == pytest.approx(np.sqrt((4 + 1) / 4))
    assert effects.df == pytest.approx(1)
    assert effects.p_value == pytest.approx(1 / 3)  # of t = sqrt(3) with one degree of freedom


def test_variance_components_are_those_of_an_analysis_of_variance():
    rng = np.random.default_rng(3)
    replicates, items = 4, 12
    values = rng.normal(size=(replicates, items)) + 2 * rng.normal(size=(1, items)) + rng.normal(size=(replicates, 1))
    frame = pd.DataFrame(values).melt(ignore_index=False, var_name="item").rename_axis("replicate").reset_index()
    table = sm.stats.anova_lm(ols("value ~ C(replicate) + C(item)", frame).fit())
    of_replicates, of_items, rest = table["sum_sq"] / table["df"]
    between, shared = of_replicates / values.size, (of_items - rest) / values.size
    effects = crossed_effects(values[None])
    assert effects.mean == pytest.approx(values.mean())
    assert effects.standard_error == pytest.approx(np.sqrt(between + shared))
    assert effects.replicate_sd == pytest.approx(np.sqrt((of_replicates - rest) / items))
    assert effects.item_error == pytest.approx(np.sqrt(values.var(axis=1, ddof=1).mean() / items))
    reach = np.sqrt(stats.t.isf(0.025, replicates - 1) ** 2 * between + stats.t.isf(0.025, items - 1) ** 2 * shared)
    assert stats.t.isf(0.025, effects.df) * effects.standard_error == pytest.approx(reach)


@pytest.mark.parametrize("mean", [0.5, 2.0, 9.0, 400.0])
def test_the_p_value_is_the_level_whose_half_width_is_the_mean(mean):
    between, shared, df_between, df_items = 0.3, 0.8, 2.0, 40.0

    def too_wide(log_level):
        a = np.exp(log_level) / 2
        return stats.t.isf(a, df_between) ** 2 * between + stats.t.isf(a, df_items) ** 2 * shared - mean**2

    parts = ErrorParts(*(np.array([x]) for x in (between, shared, shared, 0.0)), df_between, df_items)
    expected = np.exp(optimize.brentq(too_wide, -40, -1e-9, xtol=1e-13))
    assert parts.p_value(np.array([-mean])) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("replicates", [2, 3, 5])
@pytest.mark.parametrize("level", [0.05, 0.001])
def test_no_mix_of_the_two_parts_errs_more_often_than_the_level(replicates, level):
    """By integration over the chi-square distribution of the estimated part; Satterthwaite's rule errs more often."""
    df = replicates - 1.0
    estimate = stats.chi2.ppf((np.arange(20_000) + 0.5) / 20_000, df) / df
    satterthwaite = []
    for share in np.linspace(0, 1, 21):
        between, shared = share * estimate, np.full_like(estimate, 1 - share)
        parts = ErrorParts(between, shared, 0 * between, 0 * between, df, np.inf)
        assert 2 * stats.norm.sf(parts.half_width(level)).mean() <= level * 1.001
        if share > 0:
            total = between + shared
            quantile = stats.t.isf(level / 2, df * (total / between) ** 2)
            satterthwaite.append(2 * stats.norm.sf(quantile * np.sqrt(total)).mean())
    assert max(satterthwaite) > 1.1 * level


@pytest.mark.parametrize("replicates", [3, 5])
@pytest.mark.parametrize("run_sd", [0.0, 1.43, 3.0])
@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("draw", [None, lognormal])
def test_no_effect_is_found_in_at_most_five_percent_of_studies(replicates, run_sd, shared, draw):
    values = study(replicates=replicates, run_sd=run_sd, shared=shared, draw=draw)
    assert error_rate(crossed_effects(values)) <= LIMIT


@pytest.mark.parametrize("items", [30, 300])
@pytest.mark.parametrize("run_sd", [0.0, 1.43])
def test_rare_differences_of_whole_items_err_in_at_most_five_percent(items, run_sd):
    rng = np.random.default_rng(items)
    rate, error = 0.05, np.sqrt(0.05 / items)
    shift = run_sd * error * rng.normal(size=(STUDIES, 3, 1))
    same_items = rng.random((STUDIES, 1, items)) < 0.5
    drawn = np.where(same_items, rng.random((STUDIES, 1, items)), rng.random((STUDIES, 3, items)))
    gains, losses = drawn < rate / 2 + np.maximum(shift, 0), drawn > 1 - rate / 2 - np.maximum(-shift, 0)
    assert error_rate(crossed_effects(gains.astype(float) - losses, limits=(-1, 1))) <= LIMIT


@pytest.mark.parametrize("run_sd", [0.0, 1.0])
def test_clustered_items_err_in_at_most_five_percent_where_the_clusters_are_given(run_sd):
    rng = np.random.default_rng(1)
    passages = np.repeat(np.arange(20), 10)
    of_passage = rng.normal(size=(STUDIES, 1, 20))[..., passages]
    values = study(items=200, run_sd=run_sd, shared=1.0) * np.sqrt(0.7) + np.sqrt(0.3) * of_passage
    assert error_rate(crossed_effects(values, clusters=passages)) <= LIMIT
    assert error_rate(crossed_effects(values)) > LIMIT


@pytest.mark.parametrize("run_sd", [0.0, 1.0])
def test_heavy_tailed_bits_of_texts_of_unequal_length_err_in_at_most_five_percent(run_sd):
    rng = np.random.default_rng(2)
    num_bytes = 100 * rng.lognormal(size=50)
    values = study(run_sd=run_sd, shared=1.0, draw=lambda rng, shape: rng.standard_t(3, size=shape)) * num_bytes
    assert error_rate(crossed_effects(values, weights=num_bytes)) <= LIMIT


def test_a_gain_of_three_item_errors_is_found_with_five_replicates():
    effects = crossed_effects(study(replicates=5, items=100, run_sd=1.0, effect=3.0))
    assert error_rate(effects) >= 0.8


def test_a_large_gain_of_few_exceptions_stays_significant():
    items = np.concatenate([np.ones(78), np.zeros(2)])
    effects = crossed_effects(np.broadcast_to(items, (1, 3, 80)), limits=(-1, 1))
    assert effects.p_value < 1e-20
    assert effects.ci_low > 0.8
    assert effects.ci_high == 1


def test_intervals_cover_and_next_replicates_lie_in_their_interval():
    values = study(replicates=4, run_sd=1.5, items=60)
    effects, further = crossed_effects(values[:, :3]), values[:, 3].mean(axis=-1)
    assert ((effects.ci_low <= 0) & (effects.ci_high >= 0)).mean() >= 1 - LIMIT
    is_inside = (effects.next_low <= further) & (further <= effects.next_high)
    assert is_inside.mean() == pytest.approx(0.95, abs=LIMIT - 0.05)


def test_the_next_replicates_interval_is_the_t_interval_of_one_further_observation():
    values = study(replicates=5)[:2]
    effects, means = crossed_effects(values), values.mean(axis=-1)
    reach = stats.t.isf(0.025, 4) * means.std(axis=1, ddof=1) * np.sqrt(1 + 1 / 5)
    np.testing.assert_allclose(effects.next_high - effects.mean, reach)
    np.testing.assert_allclose(effects.mean - effects.next_low, reach)


def test_one_replicate_is_the_paired_interval_over_items():
    half = np.random.default_rng(0).normal(size=20)
    items = np.concatenate([half, -half]) + 0.1  # symmetric: no skewness to correct for
    effects = crossed_effects(items[None, None])
    low, high = stats.ttest_1samp(items, 0).confidence_interval()
    assert (effects.ci_low[0], effects.ci_high[0]) == pytest.approx((low, high))
    assert effects.standard_error == pytest.approx(standard_error(items, np.ones(40)))
    assert np.isnan([effects.p_value, effects.df, effects.next_low, effects.next_high, effects.replicate_sd]).all()


def test_weighted_errors_are_those_of_the_jackknife():
    rng = np.random.default_rng(5)
    weights = rng.lognormal(size=25)
    bits = rng.normal(size=25) * weights
    left_out = np.array([np.delete(bits, i).sum() / np.delete(weights, i).sum() for i in range(25)])
    effects = crossed_effects(bits[None, None], weights)
    full = bits.sum() / weights.sum()
    # By leave-one-out about the full estimate: (n - 1) / n times the sum of squares.
    assert effects.standard_error**2 == pytest.approx(24 / 25 * np.square(left_out - full).sum())
    assert effects.mean == pytest.approx(full)


def test_sums_of_clusters_are_the_units():
    rng = np.random.default_rng(6)
    values, codes = rng.normal(size=(2, 3, 30)), rng.permutation(np.repeat(np.arange(10), 3))
    weights = rng.lognormal(size=30)
    sums = np.stack([values[..., codes == code].sum(axis=-1) for code in range(10)], axis=-1)
    weight_sums = np.array([weights[codes == code].sum() for code in range(10)])
    same(crossed_effects(values, weights, codes), crossed_effects(sums, weight_sums))
    same(crossed_effects(values, clusters=np.arange(30)), crossed_effects(values))
    # Equal items in a cluster count as one.
    same(crossed_effects(values.repeat(4, axis=2), clusters=np.arange(30).repeat(4)), crossed_effects(values))


values_strategy = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).lognormal(size=(2, *np.random.default_rng(seed).integers(2, 9, 2))) - 1.0
)


@settings(deadline=None, max_examples=25)
@given(values_strategy, st.integers(0, 100))
def test_the_order_of_replicates_and_items_is_indifferent(values, seed):
    rng = np.random.default_rng(seed)
    weights = rng.lognormal(size=values.shape[2])
    items, replicates = rng.permutation(values.shape[2]), rng.permutation(values.shape[1])
    same(crossed_effects(values[:, replicates][..., items], weights[items]), crossed_effects(values, weights))


@settings(deadline=None, max_examples=25)
@given(values_strategy, st.sampled_from([1e-6, 0.1, 7.0, 1e5]))
def test_scaled_values_scale_and_negated_values_mirror(values, factor):
    effects, scaled, negated = (crossed_effects(values * c) for c in (1.0, factor, -1.0))
    same(scaled, effects, ["df", "p_value", "skew"])
    for name in ("mean", "standard_error", "ci_low", "ci_high", "item_error", "replicate_sd", "next_low", "next_high"):
        np.testing.assert_allclose(getattr(scaled, name), getattr(effects, name) * factor, rtol=1e-7)
    same(negated, effects, ["p_value", "standard_error", "df"])
    np.testing.assert_allclose(negated.ci_low, -effects.ci_high)


@settings(deadline=None, max_examples=50)
@given(values_strategy)
def test_an_interval_leaves_out_zero_where_the_p_value_is_below_five_percent(values):
    effects = crossed_effects(values)
    leaves_out = (effects.ci_low > 0) | (effects.ci_high < 0)
    np.testing.assert_array_equal(leaves_out, effects.p_value < 0.05)


@given(st.floats(-20, 20), st.floats(-2, 2))
def test_the_transform_for_skewness_has_its_inverse(x, skew):
    there = cubed(np.array([x]), np.array([skew]))
    assert uncubed(there, np.array([skew])) == pytest.approx(x, abs=1e-5)


def test_chunks_change_nothing(monkeypatch):
    values = study()[:10]
    whole = crossed_effects(values)
    monkeypatch.setattr(crossed, "CHUNK_ELEMENTS", 2 * values[0].size)
    same(crossed_effects(values), whole)


def test_values_without_variation():
    assert crossed_effects(np.zeros((1, 3, 4))).p_value == 1
    equal = crossed_effects(np.full((1, 3, 8), 0.1))
    assert equal.p_value == pytest.approx(stats.binomtest(8, 8).pvalue)
    assert (equal.ci_low, equal.ci_high) == pytest.approx((0.1, 0.1))
    of_one_item = crossed_effects(np.array([[[1.0], [2.0], [4.0]]]))
    assert np.isnan([of_one_item.p_value, of_one_item.standard_error, of_one_item.ci_low]).all()
    assert len(crossed_effects(np.zeros((0, 3, 4))).mean) == 0


def test_replicates_that_agree_by_chance_are_no_more_certain_than_their_items():
    items = np.random.default_rng(4).normal(size=(3, 30))
    items += 0.4 - items.mean(axis=1, keepdims=True)
    effects = crossed_effects(items[None])
    assert effects.standard_error >= items.mean(axis=0).std(ddof=1) / np.sqrt(30) * (1 - 1e-12)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"values": np.zeros((3, 4))}, r"shape \(3, 4\)"),
        ({"values": np.full((2, 3, 4), np.nan)}, "contrast 0, replicate 0, item 0 is nan .24 such"),
        ({"values": np.zeros((1, 3, 2)), "weights": [1.0, 0.0]}, "weights"),
        ({"values": np.zeros((1, 3, 2)), "weights": [1.0]}, r"weights of shape \(1,\)"),
        ({"values": np.zeros((1, 3, 2)), "clusters": [1]}, r"clusters of shape \(1,\)"),
    ],
)
def test_bad_values_are_refused_by_name(arguments, found):
    with pytest.raises(UserError, match=found):
        crossed_effects(**arguments)


def test_a_statistic_of_replicates_alone_is_a_t_test_and_of_items_alone_a_normal_one():
    statistic = np.array([0.3, 0.5, 0.1, 0.4])
    alone = replicate_effect(statistic, 0.0)
    test = stats.ttest_1samp(statistic, 0)
    assert alone.p_value == pytest.approx(test.pvalue)
    assert (alone.ci_low[0], alone.ci_high[0]) == pytest.approx(tuple(test.confidence_interval()))
    of_items = replicate_effect(np.full(4, 0.5), 0.04)
    assert of_items.p_value == pytest.approx(2 * stats.norm.sf(0.5 / 0.2))
    assert np.isnan(replicate_effect([0.3], 0.04).p_value)
    with pytest.raises(UserError, match="variance"):
        replicate_effect(statistic, -1.0)


def test_a_statistic_of_replicates_agrees_with_the_crossed_effect_of_the_same_items():
    values = study(replicates=5, items=400, run_sd=2.0, shared=1.0)[:20]
    effects = crossed_effects(values)
    other = replicate_effect(values.mean(axis=-1), values.mean(axis=1).var(axis=-1, ddof=1) / 400)
    np.testing.assert_allclose(other.standard_error, effects.standard_error, rtol=1e-9)
    np.testing.assert_allclose(other.p_value, effects.p_value, rtol=0.1)
