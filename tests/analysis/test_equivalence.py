"""Equivalence tests and false discovery rates, against statsmodels."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from analysis.inference.crossed import crossed_effects
from analysis.inference.equivalence import MARGINS, equivalent
from analysis.inference.multiplicity import adjusted
from open_instruct.common.errors import UserError


@pytest.mark.parametrize("shift", [-0.3, 0.0, 0.05, 0.4])
def test_equivalence_is_that_of_two_one_sided_t_tests(shift):
    sample = np.random.default_rng(0).normal(size=40) * 0.5 + shift
    expected, _, _ = DescrStatsW(sample).ttost_mean(-0.25, 0.25)
    error = sample.std(ddof=1) / np.sqrt(40)
    assert equivalent(sample.mean(), error, 39, 0.25) == pytest.approx(expected)


def test_equivalence_with_infinite_degrees_of_freedom_is_normal():
    assert equivalent(0.01, 0.005, np.inf, 0.02) == pytest.approx(stats.norm.sf(2))


def test_equivalence_without_error_missing_values_and_refused_margins():
    found = equivalent([0.01, 0.03, np.nan, 0.0], [0.0, 0.0, 0.1, np.nan], [np.nan, np.nan, 5, 5], 0.02)
    np.testing.assert_array_equal(found, [0, 1, np.nan, np.nan])
    with pytest.raises(UserError, match="margin"):
        equivalent(0.0, 0.1, 5, 0.0)
    assert all(margin > 0 for margin in MARGINS.values())


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(("replicates", "run_sd"), [(3, 0.0), (5, 1.0)])
@pytest.mark.parametrize("is_skewed", [False, True])
def test_an_effect_at_the_margin_is_called_none_in_at_most_five_percent(sign, replicates, run_sd, is_skewed):
    rng = np.random.default_rng(1)
    studies, items = 4000, 50
    drawn = rng.lognormal(size=(studies, 1, items)) - np.exp(0.5) if is_skewed else rng.normal(size=(studies, 1, items))
    error = drawn.std() / np.sqrt(items)
    values = drawn + run_sd * error * rng.normal(size=(studies, replicates, 1)) + sign * 4 * error
    effects = crossed_effects(values)
    found = equivalent(effects.mean, effects.standard_error, effects.df, 4 * error, effects.skew)
    limit = 0.05 + stats.norm.isf(0.01) * np.sqrt(0.05 * 0.95 / studies)
    assert (found <= 0.05).mean() <= limit


def test_false_discovery_rates_are_benjamini_and_hochbergs_over_the_tested():
    p_values = np.array([0.01, np.nan, 0.04, 0.03, 0.2, np.nan, 1e-9])
    is_tested = ~np.isnan(p_values)
    found = adjusted(p_values)
    np.testing.assert_allclose(found[is_tested], multipletests(p_values[is_tested], method="fdr_bh")[1])
    assert np.isnan(found[~is_tested]).all()
    assert np.isnan(adjusted([np.nan])).all()
