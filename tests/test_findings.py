import json

import pytest
from simulated_study import STUDY, write_study

from analysis import claims, findings, produce_tables
from analysis.claims import Finding
from analysis.findings import judge
from analysis.tidy import read_tables
from open_instruct import paths


def found_in(base_dir, monkeypatch, *, effect):
    monkeypatch.setenv("base_dir", str(base_dir))
    produce_tables.main(produce_tables.Args(write_study(base_dir, num_items=25, effect=effect)))
    findings.main(findings.Args())
    return json.loads((paths.results_dir() / "findings.json").read_text())["findings"]


@pytest.fixture(scope="module")
def of_the_truth(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield found_in(tmp_path_factory.mktemp("truth"), monkeypatch, effect=1.0)


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
def test_true_claims_are_supported(of_the_truth, family, number):
    of_family = [f for f in of_the_truth if f["family"] == family]
    assert [f["verdict"] for f in of_family] == ["supported"] * number


def test_constant_forgetting_has_no_trend(of_the_truth):
    assert {f["verdict"] for f in of_the_truth if f["family"] == "forgetting trend"} == {"undecided"}


def test_forgetting_is_as_large_as_in_the_truth(of_the_truth):
    effects = [f["effect"] for f in of_the_truth if f["family"] == "forgetting"]
    assert effects == pytest.approx([0.2, 0.2, 0.2], abs=0.02)


def test_no_effect_is_not_called_one(tmp_path, monkeypatch):
    found = found_in(tmp_path, monkeypatch, effect=0.0)
    verdicts = [f["verdict"] for f in found]
    # Holm bounds the chance of any false claim in a family by 5%; there are eleven families.
    assert len([v for v in verdicts if v != "undecided"]) <= 1
    assert all(f["sentence"].startswith("Undecided") for f in found if f["verdict"] == "undecided")


def finding(**changes):
    values = {"family": "forgetting", "claim": "it rises", "series": "xsum", "eval_set": "text", "test": claims.PAIRED}
    values |= {"metric": "bits_per_byte", "checkpoint": "all", "expected": 1, "direction": 1, "effect": 0.5}
    values |= {"ci_low": 0.4, "ci_high": 0.6, "p_value": 0.02, "n": 9}
    return Finding(**(values | changes))


def test_holm_counts_the_claims_of_the_family():
    alone, *_ = judge([finding()])
    first, _ = judge([finding(p_value=0.03), finding(p_value=0.04)])
    assert (alone.p_holm, alone.verdict) == (0.02, "supported")
    # The smaller of two p-values is doubled.
    assert (first.p_holm, first.verdict) == (pytest.approx(0.06), "undecided")


def test_a_clear_effect_of_the_other_sign_contradicts():
    (judged,) = judge([finding(effect=-0.5, ci_low=-0.6, ci_high=-0.4, direction=-1)])
    assert judged.verdict == "contradicted"
    assert judged.sentence.startswith("Contradicted")


def test_a_trend_that_does_not_move_is_undecided():
    (judged,) = judge([finding(test=claims.KENDALL, p_value=2 / 120, n=5, effect=0.01, ci_low=-0.01, ci_high=0.03)])
    assert judged.verdict == "undecided"


def test_a_missing_cell_is_said_and_not_counted():
    absent = finding(effect=None, p_value=None, ci_low=None, ci_high=None, missing="missing: base 20 default")
    judged, counted = judge([absent, finding()])
    assert judged.sentence == "Cannot be told: whether it rises (missing: base 20 default)."
    assert counted.p_holm == 0.02


def test_a_trend_over_too_few_checkpoints_says_what_it_could_reach():
    # 4 checkpoints have 4! = 24 orders, two of them monotone: p >= 2/24.
    (judged,) = judge([finding(test=claims.KENDALL, p_value=2 / 24, n=4)])
    assert judged.verdict == "undecided"
    assert "with so few checkpoints p >= 0.083" in judged.sentence


def test_suites_are_compared_unpaired(of_the_truth):
    suites = [f for f in of_the_truth if f["family"] == "suites" and f["eval_set"] == "arc_easy"]
    assert [f["effect"] for f in suites] == pytest.approx([0.05] * 5)
    # Base 0.25 of 1000, tuned 0.30: sqrt(.25 * .75 / 1000 + .3 * .7 / 1000) = 0.01994; 0.05 +- 1.96 * that.
    assert (suites[0]["ci_low"], suites[0]["ci_high"]) == pytest.approx((0.0109, 0.0891), abs=1e-4)


def test_a_trend_needs_every_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("base_dir", str(tmp_path))
    study_file = write_study(tmp_path, num_items=8, text=STUDY.replace("  rte: {}\n  mrpc: {}\n", ""))
    paths.prediction_file("heldout_text", "default", "checkpoint-60").with_suffix(".metrics.json").unlink()
    produce_tables.main(produce_tables.Args(study_file))
    found = findings.find(read_tables(paths.results_dir()))
    (of_base,) = [f for f in found if f.family == "pre-training trend"]
    assert (of_base.verdict, of_base.missing) == ("missing", "missing: checkpoint 60")
