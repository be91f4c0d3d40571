"""Over-training, and which tasks gain most: simulated replicates with a known truth."""

import numpy as np
import pytest
from scipy import stats

from analysis.inference.crossed import crossed_effects
from analysis.inference.gain_by_skill import Task, gain_by_skill
from analysis.inference.over_training import p_of_choice
from analysis.tables.replicates import RUN, SEED

STUDIES = 600
LIMIT = stats.binom.isf(0.01, STUDIES, 0.05)
"""More false verdicts have a chance of 1% where 5% of studies err."""


def runs_of(levels, replicates, rng, *, items=60, run_sd=0.7):
    """Scores (models, replicates, items) of models at `levels`, whose runs differ much more than items explain."""
    levels = np.asarray(levels, dtype=float)
    scores = levels[:, None, None] + run_sd * rng.normal(size=(len(levels), replicates, 1))
    return scores + rng.normal(size=(len(levels), 1, items)) + rng.normal(size=(len(levels), replicates, items))


def verdict(scores):
    """-1 for a fall, 1 for a rise, 0 for neither."""
    effects = crossed_effects(scores[-1] - scores[:-1])
    is_found = p_of_choice(effects.mean, effects.p_value.tolist()) <= 0.05
    return int(np.sign(effects.mean.min())) * is_found


@pytest.mark.parametrize("replicates", [3, 8])
def test_level_curves_have_no_peak(replicates):
    rng = np.random.default_rng(replicates)
    false = sum(verdict(runs_of([0.0] * 6, replicates, rng)) != 0 for _ in range(STUDIES))
    assert false <= LIMIT


@pytest.mark.parametrize(("levels", "expected"), [([0, 5, 9, 5, 3], -1), ([0, 2, 4, 6, 9], 1), ([0, 5, 9, 9, 9], 0)])
def test_falls_and_rises_are_found(levels, expected):
    rng = np.random.default_rng(0)
    assert [verdict(runs_of(levels, 5, rng)) for _ in range(10)].count(expected) >= 9


def test_a_rise_needs_every_earlier_checkpoint_and_a_fall_is_corrected_for_their_number():
    assert p_of_choice(np.array([3.0, 2.0, 1.0]), [0.001, 0.01, 0.04]) == 0.04
    assert p_of_choice(np.array([3.0, 2.0, -1.0]), [0.9, 0.9, 0.01]) == pytest.approx(0.03)
    assert p_of_choice(np.array([-1.0, -1.0, -1.0]), [0.03, 0.03, 0.03]) == pytest.approx(0.03)


def tasks_of(levels, gains, replicates, rng, *, run_sd, unit=RUN):
    def score(level):
        return np.clip(
            level + run_sd * rng.normal(size=(replicates, 1)) + 0.1 * rng.normal(size=(replicates, 80)), 0, 1
        )

    pairs = zip(levels, gains, strict=True)
    return [Task(str(i), score(b), score(b + g), np.ones(80), 0.0, unit) for i, (b, g) in enumerate(pairs)]


@pytest.mark.parametrize("spread", [0.0, 0.2])
def test_equal_gains_do_not_depend_on_skill(spread):
    rng = np.random.default_rng(0)
    levels = 0.4 + spread * np.linspace(-0.5, 0.5, 7)
    false = 0
    for _ in range(STUDIES):
        found = gain_by_skill(tasks_of(levels, [0.05] * 7, 8, rng, run_sd=0.04), in_log_odds=False)
        false += found.get("p_value", 1.0) <= 0.05
    assert false <= LIMIT


def test_the_slope_of_gain_on_skill_is_found_without_bias():
    rng = np.random.default_rng(0)
    levels = np.linspace(0.3, 0.6, 5)
    found = [
        gain_by_skill(tasks_of(levels, 0.3 - 0.5 * levels, 5, rng, run_sd=0.02), in_log_odds=False) for _ in range(50)
    ]
    slopes = np.array([one["difference"] for one in found])
    assert slopes.mean() == pytest.approx(-0.5, abs=4 * slopes.std() / np.sqrt(50))
    assert sum(one["p_value"] <= 0.05 for one in found) >= 45


def test_two_replicates_leave_none_beside_a_pair():
    rng = np.random.default_rng(0)
    found = gain_by_skill(tasks_of([0.3, 0.4, 0.5], [0.1] * 3, 2, rng, run_sd=0.0), in_log_odds=False)
    assert found == {"missing": "3 tasks in 2 replicates; 3 in the same 3 or more needed"}


def test_seeds_of_one_run_share_its_base_models():
    rng = np.random.default_rng(0)
    found = gain_by_skill(tasks_of([0.3, 0.4, 0.5], [0.1] * 3, 3, rng, run_sd=0.0, unit=SEED), in_log_odds=False)
    assert found["missing"].startswith("one pre-training run")
