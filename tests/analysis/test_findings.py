import json
from typing import get_args

import pytest
from simulated_study import STUDY, WITH_RUNS, write_study

from analysis import findings, produce_tables
from analysis.inference.finding import Finding
from analysis.inference.findings import DESCRIBED, NOT_TESTABLE, QUESTIONS, find, judge, with_primary
from analysis.inference.result_tables import build_tables, plan_of
from analysis.tables.columns import DIFFERENCE_COLUMNS, MISSING_COLUMNS, PERFORMANCE_COLUMNS, Comparison
from analysis.tables.frames import Tables, as_table, read_tables, select
from analysis.tables.gathering import Gathered, gather_measurements
from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.study.config import PrimaryClaim, Question
from open_instruct.study.loading import load_study


def found_in(base_dir, monkeypatch, *, effect, text=WITH_RUNS):
    monkeypatch.setenv("base_dir", str(base_dir))
    study_file = write_study(base_dir, num_items=25, effect=effect, text=text)
    produce_tables.main(produce_tables.Args(study_file))
    findings.main(findings.Args(study_file))
    return json.loads((paths.results_dir("simulated") / "findings.json").read_text())["findings"]


@pytest.fixture(scope="module")
def with_effects(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield found_in(tmp_path_factory.mktemp("study"), monkeypatch, effect=1.0)


@pytest.mark.parametrize(
    ("question", "number"),
    [
        ("pre-training", 1),
        ("fine-tuning gain", 2 * 2 * 4),  # generative train sets, metrics, checkpoints after step 0
        ("latent benefit: level", 2),
        ("latent benefit: gain", 2),
        ("forgetting", 3),
    ],
)
def test_every_true_claim_is_supported(with_effects, question, number):
    of_question = [f for f in with_effects if f["question"] == question]
    assert [f["verdict"] for f in of_question] == ["supported"] * number


def test_wider_formats_after_fine_tuning_are_found(with_effects):
    bits, _ = sorted((f for f in with_effects if f["question"] == "format sensitivity"), key=lambda f: f["metric"])
    assert bits["verdict"] == "supported"
    # Formats are 0, 0.5 and 1 times 0.32, 0.24, 0.16 and 0.08 apart (base: 0.05): the variance of 0, 0.5, 1 is 0.25.
    assert bits["effect"] == pytest.approx(0.25 * ((0.32**2 + 0.24**2 + 0.16**2 + 0.08**2) / 4 - 0.05**2), rel=0.1)


def test_one_run_is_described_and_never_judged(tmp_path, monkeypatch):
    found = found_in(tmp_path, monkeypatch, effect=1.0, text=STUDY)
    assert {f["verdict"] for f in found} == {DESCRIBED, NOT_TESTABLE}
    gain = next(f for f in found if f["question"] == "fine-tuning gain")
    assert gain["sentence"].startswith("In this run, the change of bits per byte on ")
    assert "over items only" in gain["sentence"]
    assert gain["p_value"] is None


def test_constant_forgetting_has_no_trend(with_effects):
    assert {f["verdict"] for f in with_effects if f["question"] == "forgetting trend"} == {"undecided"}


def test_effect_of_forgetting_is_the_simulated_one(with_effects):
    effects = [f["effect"] for f in with_effects if f["question"] == "forgetting"]
    assert effects == pytest.approx([0.2, 0.2, 0.2], abs=0.02)


@pytest.mark.slow
def test_without_effects_hardly_any_claim_is_decided(tmp_path, monkeypatch):
    found = found_in(tmp_path, monkeypatch, effect=0.0)
    verdicts = [f["verdict"] for f in found]
    # Where no claim is true, a single decided one has a chance of 5%.
    assert len([v for v in verdicts if v in ("supported", "contradicted")]) <= 1
    assert verdicts.count("undecided") > 40


def finding(**changes):
    values = {
        "question": "forgetting",
        "claim": "it rises",
        "quantity": "change",
        "series": "xsum",
        "family": "tiny",
        "train_set": "xsum",
    }
    values |= {"eval_set": "text", "metric": "bits_per_byte", "checkpoint": "all", "expected": 1, "effect": 0.5}
    values |= {"ci_low": 0.4, "ci_high": 0.6, "p_value": 0.02, "df": 2.0, "next_low": 0.3, "next_high": 0.7}
    values |= {"replicates": 3, "unit": "pre-training run", "n": 90}
    return Finding(**(values | changes))


def test_the_false_discovery_rate_is_that_of_all_claims_of_the_study():
    (alone,) = judge([finding()])
    first, second = judge([finding(p_value=0.03), finding(question="suites", p_value=0.2)])
    assert (alone.p_adjusted, alone.verdict) == (0.02, "supported")
    # The smaller of two p-values is doubled.
    assert (first.p_adjusted, first.verdict) == (pytest.approx(0.06), "undecided")
    assert second.p_adjusted == pytest.approx(0.2)


def test_the_primary_claim_is_tested_alone_and_does_not_count_in_the_correction():
    claims = [finding(checkpoint="20", p_value=0.03), finding(checkpoint="60", p_value=0.04)]
    primary, other = judge(with_primary(claims, PrimaryClaim("forgetting", checkpoint=20)))
    assert (primary.p_adjusted, primary.verdict, other.p_adjusted) == (0.03, "supported", 0.04)
    assert "primary claim, p = 0.03" in primary.sentence


def test_where_the_primary_claim_is_not_found_the_others_are_held_to_one_percent():
    claims = [finding(checkpoint="20", p_value=0.06), finding(checkpoint="60", p_value=0.011)]
    _, strict = judge(with_primary(claims, PrimaryClaim("forgetting", checkpoint=20)))
    assert (strict.p_adjusted, strict.verdict) == (pytest.approx(0.055), "undecided")
    _, without = judge([finding(checkpoint="20", p_value=0.06), finding(checkpoint="60", p_value=0.011)])
    assert (without.p_adjusted, without.verdict) == (pytest.approx(0.022), "supported")


@pytest.mark.parametrize(
    ("shots", "expected"),
    [
        (("", " 4 shots"), {"tasks trained on"}),
        ((" 0 shots", " 4 shots"), {"tasks trained on 0 shots", "tasks trained on 4 shots"}),
    ],
)
def test_who_gains_most_is_asked_once_a_task_or_for_each_usual_number_of_shots(base_dir, shots, expected):
    study = load_study(write_study(base_dir, num_items=4, text=WITH_RUNS.replace("0, 20, 60, 150, 300", "0, 20, 60")))
    found = gather_measurements(study)
    rows = [row | {"setting": row["setting"] + number} for number in shots for row in found.rows]
    cells = {(name + number, metric): cell for number in shots for (name, metric), cell in found.cells.items()}
    differences = build_tables(Gathered(rows, cells, []), study).differences
    asked = set(select(differences, comparison=Comparison.GAIN_BY_SKILL)["series"])
    assert {name for name in asked if name.startswith("tasks")} == expected


def test_a_study_file_may_name_each_question():
    assert tuple(QUESTIONS) == get_args(Question)


def test_the_primary_claim_is_that_of_its_family():
    claims = [finding(), finding(family="tiny stage2")]
    assert [one.is_primary for one in with_primary(claims, PrimaryClaim("forgetting", family="tiny stage2"))] == [0, 1]


@pytest.mark.parametrize("primary", [PrimaryClaim("forgetting"), PrimaryClaim("forgetting", metric="accuracy")])
def test_a_primary_claim_that_is_none_or_several_is_refused(primary):
    with pytest.raises(UserError, match=r"found [02] claims with question forgetting.*expected one"):
        with_primary([finding(checkpoint="20"), finding(checkpoint="60")], primary)


def test_fewer_than_three_replicates_are_described():
    two, one = judge([finding(replicates=2, unit="fine-tuning seed"), finding(replicates=1, p_value=None)])
    assert (two.verdict, one.verdict) == (DESCRIBED, DESCRIBED)
    assert two.sentence.startswith("In these 2 fine-tuning seeds, the change is +0.5, 95% interval +0.4 to +0.6 over")
    assert two.p_adjusted is None


def test_a_handful_of_items_is_not_judged():
    (judged,) = judge([finding(n=19)])
    assert (judged.verdict, judged.missing, judged.p_adjusted) == (
        NOT_TESTABLE,
        "19 independent items, 20 needed",
        None,
    )


def test_a_clear_effect_of_the_other_sign_contradicts():
    (judged,) = judge([finding(effect=-0.5, ci_low=-0.6, ci_high=-0.4)])
    assert judged.verdict == "contradicted"
    assert "opposite sign" in judged.sentence


def test_the_sentence_states_claim_effect_interval_and_p_value():
    (judged,) = judge([finding(claim="scores rise", effect=0.25, ci_low=0.125, ci_high=0.375, p_value=0.02)])
    for part in (
        "scores rise",
        "+0.25",
        "+0.125 to +0.375 over 3 pre-training runs and 90 independent items",
        "q = 0.02",
    ):
        assert part in judged.sentence


def test_a_claim_with_a_missing_cell_is_not_testable_and_does_not_count_in_the_correction():
    absent = finding(effect=None, p_value=None, ci_low=None, ci_high=None, missing="missing: base at 20")
    judged, counted = judge([absent, finding()])
    assert judged.verdict == NOT_TESTABLE
    assert "base at 20" in judged.sentence
    assert counted.p_adjusted == 0.02


def test_suites_without_items_are_compared_unpaired(with_effects):
    suites = [f for f in with_effects if f["question"] == "suites" and f["eval_set"] == "arc_easy"]
    # Base 0.25 + 0.1 i of 1000 items, tuned 0.05 more, at four checkpoints, the same in all runs.
    assert [f["effect"] for f in suites] == pytest.approx([0.05])
    shares = [0.35, 0.40, 0.45, 0.50, 0.55, 0.60, 0.65, 0.70]
    error = sum(p * (1 - p) / 1000 for p in shares) ** 0.5 / 4
    assert (suites[0]["ci_high"] - suites[0]["effect"]) == pytest.approx(1.96 * error, rel=1e-3)


def test_a_trend_without_every_checkpoint_is_not_testable(tmp_path, monkeypatch):
    monkeypatch.setenv("base_dir", str(tmp_path))
    study_file = write_study(tmp_path, num_items=8, text=STUDY.replace("  rte: {}\n  mrpc: {}\n", ""))
    paths.prediction_file("heldout_text", "default", "checkpoint-60").with_suffix(".metrics.json").unlink()
    produce_tables.main(produce_tables.Args(study_file))
    found = find(read_tables(paths.results_dir("simulated")))
    (of_base,) = [f for f in found if f.question == "pre-training"]
    assert (of_base.verdict, of_base.missing) == (NOT_TESTABLE, "missing: base at 60")


def test_a_checkpoint_that_no_model_has_leaves_no_slope(tmp_path, monkeypatch):
    monkeypatch.setenv("base_dir", str(tmp_path))
    study_file = write_study(tmp_path, num_items=8, text=STUDY.replace("  rte: {}\n  mrpc: {}\n", ""))
    for path in [*(tmp_path / "output" / "predictions").iterdir(), *(tmp_path / "eval_results").rglob("*.json")]:
        if "checkpoint-60" in path.name or "ckpt60_" in path.name:
            path.unlink()
    produce_tables.main(produce_tables.Args(study_file))
    found = find(read_tables(paths.results_dir("simulated")))
    of_slopes = [f for f in found if f.question in ("pre-training", "latent benefit: level", "latent benefit: gain")]
    assert {f.verdict for f in of_slopes} == {NOT_TESTABLE}
    assert all("at 60" in (f.missing or "") for f in of_slopes)


def test_a_run_that_lacks_one_measurement_is_named_and_not_averaged_over(tmp_path, monkeypatch):
    monkeypatch.setenv("base_dir", str(tmp_path))
    study_file = write_study(tmp_path, num_items=8, text=WITH_RUNS.replace("  rte: {}\n  mrpc: {}\n", ""))
    (gone,) = (tmp_path / "output" / "predictions").glob("heldout_text_*seed43*checkpoint*60.metrics.json")
    gone.unlink()
    produce_tables.main(produce_tables.Args(study_file))
    tables = read_tables(paths.results_dir("simulated"))
    (of_base,) = [f for f in find(tables) if f.question == "pre-training"]
    assert (of_base.verdict, of_base.missing) == (NOT_TESTABLE, "missing: base at 60, replicate seed43")
    assert "60" not in set(select(tables.levels, series="base", eval_set="heldout_text")["checkpoint"])


LIGHT = """\
name: simulated
family: tiny
pretrain: {seeds: [42, 43, 44]}
steps: [0, 20, 60, 150]
train_sets:
  socialiqa: {epochs: 3, lr: 1e-3}
evaluation:
  socialiqa: {}
  heldout_text: {}
suite: {tasks: [arc_easy], train_sets: [socialiqa]}
"""


def test_a_study_of_the_initialisation_alone_has_tables_and_no_claim_is_judged(tmp_path, monkeypatch):
    found = found_in(tmp_path, monkeypatch, effect=1.0, text=LIGHT.replace("[0, 20, 60, 150]", "[0]"))
    assert {f["verdict"] for f in found} == {NOT_TESTABLE}
    (who,) = [f for f in found if f["question"] == "who gains most"]
    assert "0 tasks in no replicates" in who["missing"]
    assert "left out: socialiqa: no checkpoint after step 0" in who["sentence"]


def test_a_suite_without_items_is_not_averaged_over_an_absent_seed(tmp_path, monkeypatch):
    text = LIGHT.replace("lr: 1e-3", "lr: 1e-3, seeds: [1, 2]")
    found_in(tmp_path, monkeypatch, effect=1.0, text=text)
    (gone,) = (tmp_path / "eval_results/eval_pipeline").glob("arc_easy*seed43*ckpt60*_seed2.json")
    gone.unlink()
    study_file = tmp_path / "simulated.yaml"
    produce_tables.main(produce_tables.Args(study_file))
    (suite,) = [f for f in find(read_tables(paths.results_dir("simulated"))) if f.question == "suites"]
    assert (suite.verdict, suite.missing) == (NOT_TESTABLE, "missing: socialiqa at 60, replicate seed43")


def test_claims_about_base_models_name_the_family_where_there_are_several():
    rows = [dict.fromkeys(DIFFERENCE_COLUMNS) for _ in range(2)]
    for row, family in zip(rows, ("a", "b"), strict=True):
        row |= {"comparison": Comparison.SLOPE, "series": f"{family} base", "family": family, "kind": "text"}
        row |= {"setting": "text", "eval_set": "text", "metric": "bits_per_byte", "checkpoint": "60"}
        row |= {"format": "default", "role": "pre-training", "difference": -0.1, "n": 50, "replicates": 3}
        row |= {"p_value": 0.001, "ci_low": -0.2, "ci_high": -0.05, "unit": "pre-training run"}
    empty = as_table([], PERFORMANCE_COLUMNS)
    found = find(Tables(empty, empty, as_table(rows, DIFFERENCE_COLUMNS), as_table([], MISSING_COLUMNS)))
    assert [f.claim for f in found] == [
        f"bits per byte on text of {family} base models falls with longer pre-training" for family in ("a", "b")
    ]
    assert "(-0.1 per doubling of the pre-training tokens, 95% interval -0.2 to -0.05 over" in found[0].sentence


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"replicates": 1, "unit": None, "p_value": None}, "primary claim, not judged with 1 of 3 replicates"),
        ({"missing": "missing: base at 20"}, "(missing: base at 20; primary claim)"),
    ],
)
def test_a_primary_claim_without_a_verdict_says_that_it_is_the_primary_one(changes, words):
    (one,) = judge([finding(is_primary=True, **changes)])
    assert words in one.sentence


def test_of_fine_tuning_seeds_the_sentence_says_that_they_are_of_one_run():
    (one,) = judge([finding(unit="fine-tuning seed")])
    assert "over 3 fine-tuning seeds of one run and 90 independent items" in one.sentence


def test_a_slope_that_log_odds_cannot_confirm_is_not_judged_in_raw_scores_alone():
    rows = [dict.fromkeys(DIFFERENCE_COLUMNS) | {"series": "tasks trained on", "metric": "skill"} for _ in range(2)]
    rows[0] |= {"comparison": Comparison.GAIN_BY_SKILL, "difference": -0.5, "p_value": 0.001, "replicates": 3}
    rows[1] |= {"comparison": Comparison.GAIN_BY_SKILL_IN_LOG_ODDS, "missing": "all do equally well"}
    empty = as_table([], PERFORMANCE_COLUMNS)
    (one,) = find(Tables(empty, empty, as_table(rows, DIFFERENCE_COLUMNS), as_table([], MISSING_COLUMNS)))
    assert (one.verdict, one.missing) == (NOT_TESTABLE, "in log-odds: all do equally well")


def test_findings_of_a_folder_say_that_its_study_names_no_primary_claim_there(tmp_path, monkeypatch, capsys):
    found_in(tmp_path, monkeypatch, effect=1.0, text=LIGHT)
    assert "no claim is primary" not in capsys.readouterr().out
    findings.main(findings.Args(folder=paths.results_dir("simulated")))
    assert "no claim is primary without --study" in capsys.readouterr().out


def test_a_single_base_run_is_not_called_unlevel(tmp_path, monkeypatch):
    text = LIGHT.replace("pretrain: {seeds: [42, 43, 44]}\n", "").replace("lr: 1e-3", "lr: 1e-3, seeds: [1, 2, 3]")
    found = found_in(tmp_path, monkeypatch, effect=0.0, text=text)
    plateaus = [f for f in found if f["question"].startswith("latent benefit: plateau")]
    assert plateaus
    assert {f["missing"] for f in plateaus} == {
        "1 base model at each checkpoint; 3 needed to show that the base is level"
    }


def test_runs_that_are_families_of_their_own_are_expected_to_have_the_checkpoints_of_the_study(tmp_path):
    study_file = tmp_path / "simulated.yaml"
    study_file.write_text(LIGHT)
    checkpoints = plan_of(load_study(study_file)).checkpoints
    assert checkpoints["tiny default"] == checkpoints["tiny seed43"] == ["0", "20", "60", "150"]
