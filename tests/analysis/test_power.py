"""Smallest detectable effects, against studies simulated through the tests that the findings use."""

import numpy as np
import pytest

from analysis.inference.crossed import crossed_effects
from analysis.inference.power import smallest_detectable_effect

STUDIES = 1500


def share_shown(effect, *, item_error, replicate_sd, replicates, items, shared, level):
    """Share of simulated studies with a p-value of at most `level`."""
    random = np.random.default_rng([replicates, items, int(100 * shared)])
    spread = item_error * np.sqrt(items)
    values = effect + replicate_sd * random.normal(size=(STUDIES, replicates, 1))
    values = values + np.sqrt(shared) * spread * random.normal(size=(STUDIES, 1, items))
    values = values + np.sqrt(1 - shared) * spread * random.normal(size=(STUDIES, replicates, items))
    return np.mean(crossed_effects(values).p_value <= level)


@pytest.mark.parametrize(
    ("replicates", "items", "replicate_sd", "shared", "level"),
    [
        (3, 100, 0.02, 1.0, 0.05),
        (3, 100, 0.005, 0.3, 0.05),
        (5, 40, 0.02, 0.5, 0.05),
        (8, 50, 0.0, 1.0, 0.05),
        (3, 200, 0.0, 0.0, 0.05),
    ],
)
def test_four_studies_in_five_show_the_smallest_effect(replicates, items, replicate_sd, shared, level):
    plan = {"item_error": 0.014, "replicate_sd": replicate_sd, "replicates": replicates, "items": items}
    plan |= {"shared": shared, "level": level}
    found = share_shown(smallest_detectable_effect(**plan), **plan)
    # Three standard errors of the simulated share; the correction for skewness costs up to two points more.
    error = np.sqrt(0.8 * 0.2 / STUDIES)
    assert 0.8 - 3 * error - 0.02 < found < 0.8 + 3 * error


def test_more_replicates_and_more_power_change_it_as_they_should():
    plan = {"item_error": 0.014, "replicate_sd": 0.02, "items": 200}
    found = [smallest_detectable_effect(replicates=replicates, **plan) for replicates in (2, 3, 5, 10)]
    assert found == sorted(found, reverse=True)
    assert smallest_detectable_effect(replicates=3, power=0.9, **plan) > found[1]
    assert smallest_detectable_effect(replicates=3, level=0.001, **plan) > found[1]


def test_one_replicate_shows_nothing():
    assert smallest_detectable_effect(0.014, 0.02, 1, 200) == np.inf


def test_many_replicates_without_run_noise_reach_the_usual_power_of_a_t_test():
    # 1.96 + 0.84 standard errors of a mean that only items leave open.
    assert smallest_detectable_effect(0.01, 0.0, 400, 10_000) == pytest.approx(0.028016, rel=0.01)
