import importlib.util
import json
import sys

import numpy as np
import pytest
from simulated_study import STUDY, write_study

from analysis import findings, produce_tables
from analysis.inference.contrasts import Contrast
from analysis.inference.finding import KENDALL, PAIRED, Finding
from analysis.inference.findings import NOT_TESTABLE, find, judge
from analysis.inference.paired import evaluate_paired
from analysis.tables.frames import read_tables, select
from analysis.tables.measurements import Cell
from open_instruct.common import paths
from open_instruct.common.paths import REPOSITORY


def found_in(base_dir, monkeypatch, *, effect):
    monkeypatch.setenv("base_dir", str(base_dir))
    study_file = write_study(base_dir, num_items=25, effect=effect)
    produce_tables.main(produce_tables.Args(study_file))
    findings.main(findings.Args(study_file))
    return json.loads((paths.results_dir("simulated") / "findings.json").read_text())["findings"]


@pytest.fixture(scope="module")
def with_effects(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield found_in(tmp_path_factory.mktemp("study"), monkeypatch, effect=1.0)


@pytest.mark.parametrize(
    ("family", "number"),
    [
        ("pre-training", 4),  # 5 checkpoints
        ("pre-training trend", 1),
        ("fine-tuning gain", 2 * 2 * 5),  # generative train sets, metrics, checkpoints
        ("latent benefit: level", 2),
        ("latent benefit: gain", 2),
        ("forgetting", 3),
        ("format sensitivity", 2),
    ],
)
def test_every_true_claim_is_supported(with_effects, family, number):
    of_family = [f for f in with_effects if f["family"] == family]
    assert [f["verdict"] for f in of_family] == ["supported"] * number


def test_constant_forgetting_has_no_trend(with_effects):
    assert {f["verdict"] for f in with_effects if f["family"] == "forgetting trend"} == {"undecided"}


def test_effect_of_forgetting_is_the_simulated_one(with_effects):
    effects = [f["effect"] for f in with_effects if f["family"] == "forgetting"]
    assert effects == pytest.approx([0.2, 0.2, 0.2], abs=0.02)


@pytest.mark.slow
def test_without_effects_at_most_one_claim_is_decided(tmp_path, monkeypatch):
    found = found_in(tmp_path, monkeypatch, effect=0.0)
    verdicts = [f["verdict"] for f in found]
    # Holm bounds the chance of any false claim in a family by 5%; there are eighteen families.
    assert len([v for v in verdicts if v in ("supported", "contradicted")]) <= 1
    assert all(f["sentence"].startswith("Undecided") for f in found if f["verdict"] == "undecided")


@pytest.fixture(scope="module")
def power():
    (path,) = (REPOSITORY / "benchmarks").rglob("power_of_findings.py")
    spec = importlib.util.spec_from_file_location("power_of_findings", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.slow
def test_simulated_effects_are_found_and_absent_ones_are_not(power):
    shares = power.judge_studies(power.Scenario(num_items=50), 12)
    # At a rate of 5%, more than 4 of 12 have a probability of 1 in 40,000.
    assert all(kind == "false positive" and share <= 4 / 12 for kind, share in shares.values())
    shares = power.judge_studies(power.Scenario(latent=True, forgetting=True, num_items=200), 6)
    assert shares["latent benefit: gain, score"] == ("power", pytest.approx(1.0, abs=0.2))
    assert shares["forgetting"] == ("power", pytest.approx(1.0, abs=0.2))


def test_who_gains_most_is_robust_to_regression_to_the_mean(power):
    rates = power.gain_rates(100)
    assert rates["who gains most: false positive"] <= 0.12
    # There is no relation; a plain correlation finds one far too often.
    assert rates["  plain correlation of gain and base score, false positive"] > 0.15
    assert rates["who gains most: power"] > 0.25


@pytest.mark.slow
def test_over_training_finds_a_fall_and_no_fall_in_rising_scores(power):
    rates = power.peak_rates(100)
    assert all(share <= 0.12 for name, share in rates.items() if "false positive" in name)
    assert all(share > 0.8 for name, share in rates.items() if "power" in name)


def test_float_rounding_of_equal_scores_is_no_difference():
    # Means over five checkpoints of equal scores differ by rounding only.
    values = np.tile([0.0, 0.3, 0.3, 0.1, 1.0], 10)
    cells = {
        (name, str(c), "default"): Cell(tuple(map(str, range(50))), values, None) for name in "ab" for c in range(5)
    }
    terms = {("a", str(c), "default"): 0.2 for c in range(5)} | {("b", str(c), "default"): -1 / 5 for c in range(5)}
    (row,) = evaluate_paired([Contrast("mean", "a", "all", "b", terms)], cells)
    assert (row["difference"], row["ci_low"], row["ci_high"], row["p_value"]) == (0.0, 0.0, 0.0, 1.0)


def test_interval_over_seeds_includes_the_variance_between_seeds(power):
    alone = power.simulate(power.Scenario(), 0).differences
    several = power.simulate(power.Scenario(jitter=0.05, num_seeds=3), 0).differences
    pooled = several[several["series"] == "questions (3 seeds)"]
    where = {"comparison": "fine-tuned - base", "checkpoint": "8", "eval_set": "questions"}
    (mean,) = select(pooled, **where).to_dict("records")
    each = select(several, **where, series=[f"questions seed={i}" for i in range(3)])["difference"]
    assert mean["difference"] == pytest.approx(each.mean())
    # Student's t at 2 degrees of freedom is 4.30, and the variance includes that between seeds.
    assert mean["std"] >= np.sqrt(each.var(ddof=1) / 3)
    assert mean["ci_high"] - mean["difference"] == pytest.approx(4.3027 * mean["std"], rel=1e-3)
    assert not alone["series"].str.contains("seeds").any()


def finding(**changes):
    values = {"family": "forgetting", "claim": "it rises", "series": "xsum", "eval_set": "text", "test": PAIRED}
    values |= {"metric": "bits_per_byte", "checkpoint": "all", "expected": 1, "direction": 1, "effect": 0.5}
    values |= {"ci_low": 0.4, "ci_high": 0.6, "p_value": 0.02, "n": 9}
    return Finding(**(values | changes))


def test_p_values_are_corrected_for_the_claims_of_the_family():
    alone, *_ = judge([finding()])
    first, _ = judge([finding(p_value=0.03), finding(p_value=0.04)])
    assert (alone.p_holm, alone.verdict) == (0.02, "supported")
    # The smaller of two p-values is doubled.
    assert (first.p_holm, first.verdict) == (pytest.approx(0.06), "undecided")


def test_a_clear_effect_of_the_other_sign_contradicts():
    (judged,) = judge([finding(effect=-0.5, ci_low=-0.6, ci_high=-0.4, direction=-1)])
    assert judged.verdict == "contradicted"
    assert "opposite sign" in judged.sentence


def test_the_sentence_states_claim_effect_interval_and_p_value():
    (judged,) = judge([finding(claim="scores rise", effect=0.25, ci_low=0.125, ci_high=0.375, p_value=0.02)])
    for part in ("scores rise", "bits per byte +0.25", "+0.125 to +0.375", "0.02"):
        assert part in judged.sentence


def test_a_monotone_trend_without_an_effect_is_undecided():
    (judged,) = judge([finding(test=KENDALL, p_value=2 / 120, n=5, effect=0.01, ci_low=-0.01, ci_high=0.03)])
    assert judged.verdict == "undecided"


def test_a_claim_with_a_missing_cell_is_not_testable_and_does_not_count_in_the_correction():
    absent = finding(effect=None, p_value=None, ci_low=None, ci_high=None, missing="missing: base 20 default")
    judged, counted = judge([absent, finding()])
    assert judged.verdict == NOT_TESTABLE
    assert "base 20 default" in judged.sentence
    assert counted.p_holm == 0.02


def test_a_trend_over_too_few_checkpoints_states_the_smallest_p_value():
    # 4 checkpoints have 4! = 24 orders, two of them monotone: p >= 2/24.
    (judged,) = judge([finding(test=KENDALL, p_value=2 / 24, n=4)])
    assert judged.verdict == "undecided"
    assert "p >= 0.083" in judged.sentence


def test_suites_without_items_are_compared_unpaired(with_effects):
    suites = [f for f in with_effects if f["family"] == "suites" and f["eval_set"] == "arc_easy"]
    assert [f["effect"] for f in suites] == pytest.approx([0.05] * 5)
    # Base 0.25 of 1000, tuned 0.30: sqrt(.25 * .75 / 1000 + .3 * .7 / 1000) = 0.01994; 0.05 +- 1.96 * that.
    assert (suites[0]["ci_low"], suites[0]["ci_high"]) == pytest.approx((0.0109, 0.0891), abs=1e-4)


def test_a_trend_without_every_checkpoint_is_not_testable(tmp_path, monkeypatch):
    monkeypatch.setenv("base_dir", str(tmp_path))
    study_file = write_study(tmp_path, num_items=8, text=STUDY.replace("  rte: {}\n  mrpc: {}\n", ""))
    paths.prediction_file("heldout_text", "default", "checkpoint-60").with_suffix(".metrics.json").unlink()
    produce_tables.main(produce_tables.Args(study_file))
    found = find(read_tables(paths.results_dir("simulated")))
    (of_base,) = [f for f in found if f.family == "pre-training trend"]
    assert (of_base.verdict, of_base.missing) == (NOT_TESTABLE, "missing: checkpoint 60")
