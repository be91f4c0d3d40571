"""Faults of published rows are found by rules, on small tables in the authors' format."""

from pathlib import Path

import pytest
from released_tables import base_id, degenerate_models, tuned_id, write

from analysis.inference.degenerate_results import degenerate_results
from analysis.inference.paper_comparison import degenerate_rows
from analysis.inference.result_tables import build_tables
from analysis.tables.gathering import gather_released
from analysis.tables.released import EVALUATED

STEPS = ("1000", "18000", "342000", "424000", "505000", "592000", "738000", "main")
COURSES = {None: (0.10, 0.12, 0.11, 0.11, 0.13, 0.12), "xsum": (0.17, 0.17, 0.18, 0.19, 0.18, 0.18)}
COURSES |= {"socialiqa": (0.12, 0.13, 0.13, 0.14, 0.13, 0.13)}
MNLI = EVALUATED["mnli_matched"].gold


def tables_of_rows(folder: Path, rows: list[tuple], suites: list[tuple] = ()):
    folder.mkdir(exist_ok=True)
    write(folder / "all_perf_table.csv", rows, ("model_id", "eval dataset", "Performance", "std"))
    write(folder / "it_perf_table.csv", list(suites), ("model_id", "eval dataset", "Performance"))
    return build_tables(gather_released(folder))


def found(tables, kind: str):
    return [result for result in degenerate_results(tables) if result.kind == kind]


def test_an_accuracy_equal_to_a_labels_share_within_its_resampling_noise_is_a_constant_predictor(tmp_path):
    share, error = MNLI["contradiction"] / sum(MNLI.values()), 0.0048
    # The middle of a bootstrap interval of 3,000 resamples has a standard deviation of 0.035 standard errors.
    offsets = {"1000": 0.0, "18000": 0.09, "342000": -0.09, "424000": 0.2, "505000": -0.5, "main": 30.0}
    rows = [(base_id(step), "mnli_matched", share + offset * error, error) for step, offset in offsets.items()]
    tables = tables_of_rows(tmp_path, rows)
    expected = {(base_id(step), "mnli_matched", "default") for step in ("1000", "18000", "342000")}
    assert degenerate_models(tables.performance) == expected
    listed = found(tables, "constant predictor")
    assert {result.sources[0] for result in listed} == {f"all_perf_table.csv:{line}" for line in (2, 3, 4)}
    assert all("3,213 of 9,815 gold labels are contradiction" in result.why for result in listed)


def test_a_suite_score_is_a_constant_answer_only_if_it_is_the_same_number_of_items(tmp_path):
    suites = [("checkpoint-1000", "rte", 146 / 277), ("checkpoint-18000", "rte", 147 / 277)]
    tables = tables_of_rows(tmp_path, [(base_id("main"), "xsum", 0.1, 0.01)], suites)
    assert degenerate_models(tables.suites, "always answering") == {("checkpoint-1000", "rte", "default")}


def xsum_rows(at_424000: dict[str | None, float]) -> list[tuple]:
    """Three courses over eight checkpoints, whose fourth is as given and whose others are in COURSES."""
    rows = []
    for train_set, course in COURSES.items():
        scores = [*course[:3], at_424000[train_set], *course[3:], course[-1]]
        for step, score in zip(STEPS, scores, strict=True):
            model_id = tuned_id(step, train_set) if train_set else base_id(step)
            rows.append((model_id, "xsum", score, 0.001))
    return rows


def test_several_series_that_fall_at_one_checkpoint_and_recover_are_broken_there(tmp_path):
    tables = tables_of_rows(tmp_path, xsum_rows({None: 0.02, "xsum": 0.09, "socialiqa": 0.04}))
    (result,) = found(tables, "broken checkpoint")
    assert result.where == "424000 on xsum"
    # The fourth row of each of the three courses of eight.
    assert set(result.sources) == {f"all_perf_table.csv:{line}" for line in (5, 13, 21)}


@pytest.mark.parametrize(
    "at_424000",
    [
        {None: 0.02, "xsum": 0.185, "socialiqa": 0.135},
        {None: 0.02, "xsum": 0.09, "socialiqa": 0.135},
        {None: 0.10, "xsum": 0.17, "socialiqa": 0.125},
    ],
    ids=["one series", "two series", "within the noise"],
)
def test_fewer_series_or_a_fall_within_the_noise_are_not(tmp_path, at_424000):
    assert not found(tables_of_rows(tmp_path, xsum_rows(at_424000)), "broken checkpoint")


def test_a_lasting_fall_is_not_broken(tmp_path):
    rows = [
        (tuned_id(step, name) if name else base_id(step), "xsum", 0.2 if i < 4 else 0.05, 0.001)
        for name in COURSES
        for i, step in enumerate(STEPS)
    ]
    assert not found(tables_of_rows(tmp_path, rows), "broken checkpoint")


def test_equal_round_scores_are_repeated_only_for_models_that_repeat_each_other_elsewhere(tmp_path):
    copies, others = ("342000", "505000", "592000"), ("424000", "738000")
    ids = {step: f"olmo1b_ckpt{step}_tulu_5epoch_2e-6" for step in (*copies, *others)}
    suites = [(ids[step], "gsm", 0.03) for step in ids]
    for name, value in (("toxigen", 0.6282857142857143), ("truthfulqa", 0.401468788249694)):
        suites += [(ids[step], name, value if step in copies else value + int(step) / 1e7) for step in ids]
    tables = tables_of_rows(tmp_path, [(base_id("main"), "xsum", 0.1, 0.01)], suites)
    by_setting = {result.setting: result for result in found(tables, "repeated value")}
    assert set(by_setting) == {"gsm", "toxigen", "truthfulqa"}
    assert set(by_setting["gsm"].sources) == {f"it_perf_table.csv:{line}" for line in (2, 3, 4)}


def test_round_scores_alone_are_chance(tmp_path):
    suites = [(f"checkpoint-{step}", "gsm", 0.02) for step in STEPS[:-1]]
    assert not found(tables_of_rows(tmp_path, [(base_id("main"), "xsum", 0.1, 0.01)], suites), "repeated value")


def test_what_is_known_of_a_set_concerns_all_its_rows(tmp_path):
    rows = [(base_id(step), name, 0.5, 0.05) for step in STEPS for name in ("llmbar_Natural", "paws")]
    suites = [
        ("checkpoint-1000", "arc_easy", 0.25),
        ("checkpoint-1000_5shots", "mmlu", 0.25),
        ("checkpoint-1000", "gsm", 0),
    ]
    listed = degenerate_rows(tables_of_rows(tmp_path, rows, suites))
    in_prompt = listed[listed["kind"] == "gold in prompt"]
    assert in_prompt["source"].tolist() == [f"all_perf_table.csv:{line}" for line in range(2, 18, 2)]
    assert listed.loc[listed["kind"] == "unknown number of shots", "source"].tolist() == ["it_perf_table.csv:2"]
