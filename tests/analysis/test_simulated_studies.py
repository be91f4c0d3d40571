"""benchmarks/agreement/simulated_studies.py in miniature: studies have the stated truth, rates are right."""

import json

import numpy as np
import pytest
import simulated_studies
from scipy import stats
from simulated_studies import ALL, PRIMARY_ALONE, SCENARIOS, Args, count, judge_studies, main, with_bounds
from simulation import Design, Noise, Truth, simulate

from analysis.inference.findings import find
from analysis.tables.columns import Comparison
from analysis.tables.frames import select


def test_one_run_gives_no_verdict_whatever_is_true(monkeypatch):
    effects = SCENARIOS["effects of 3 item errors, 5 runs"]
    single = simulated_studies.Scenario(Design(1, noise=Noise(runs=1), truth=effects.design.truth), effects.true)
    monkeypatch.setitem(SCENARIOS, "one", single)
    for study in judge_studies("one", range(2)):
        claims, false, small, right = study[ALL]
        assert claims > 40
        assert (false, small, right) == (0, 0, 0)


def test_effects_in_the_tables_are_those_of_the_scenario():
    truth = Truth(gain=14, growth=2, forgetting=-40)
    rows = simulate(Design(3, truth=truth), np.random.default_rng(0)).differences
    own = select(rows, comparison=Comparison.CHANGE, eval_set="xsum", metric="rouge_l", format="default")
    # In item standard errors of 0.014; the mean over runs deviates by about one of them.
    assert own["difference"].iloc[1:].to_numpy() / 0.014 == pytest.approx([10, 12, 14, 16, 18], abs=5)
    forgotten = select(rows, comparison=Comparison.MEAN_CHANGE, eval_set="text", series="xsum")
    assert forgotten["difference"].item() / 0.014 == pytest.approx(-40, abs=4)


def test_verdicts_on_zero_effects_and_of_the_wrong_sign_are_false():
    found = find(simulate(Design(5, noise=Noise(runs=0.1), truth=Truth(gain=6)), np.random.default_rng(0)))
    gains = [one for one in found if one.question == "fine-tuning gain"]
    design = Design(5)
    for truth, expected in (({}, "false"), ({"fine-tuning gain": -1}, "false"), ({"fine-tuning gain": 1}, "right")):
        _, false, small, right = count(simulated_studies.Scenario(design, truth), gains)
        assert {"false": false, "right": right}[expected] == len(gains)
        assert small == false


@pytest.mark.parametrize(("number", "of"), [(0, 100), (3, 100), (100, 100)])
def test_bounds_are_those_of_clopper_and_pearson(number, of):
    mean, low, high = with_bounds(np.arange(of) < number)
    exact = stats.binomtest(number, of).proportion_ci(0.98, method="exact")
    assert (mean, low, high) == pytest.approx((number / of, exact.low, exact.high))


def test_claims_that_err_together_count_as_one():
    together = np.repeat(np.arange(100) < 10, 20).reshape(100, 20).mean(axis=1)
    assert with_bounds(together) == pytest.approx(with_bounds(np.arange(100) < 10))


@pytest.mark.slow
def test_the_program_prints_both_tables_and_writes_every_rate(tmp_path, capsys):
    output = tmp_path / "rates.json"
    main(Args(4, only=("run noise, 3 runs", "fall by 6 item errors, 5 runs"), processes=1, output_file=output))
    printed = capsys.readouterr().out
    assert "| run noise, 3 runs | " in printed
    rates = {(r["scenario"], r["question"]): r for r in json.loads(output.read_text())["rates"]}
    assert rates["fall by 6 item errors, 5 runs", PRIMARY_ALONE]["found"] > 0
    assert f"over-training {rates['fall by 6 item errors, 5 runs', 'over-training']['found']:.0%}" in printed


def test_scenarios_of_another_name_are_refused():
    with pytest.raises(simulated_studies.UserError, match="no such scenario; there are item noise alone, 3 runs"):
        main(Args(1, only=("none",)))
