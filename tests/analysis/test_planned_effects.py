"""The smallest gains that a plan can show, from assumed and from measured noise."""

import csv

import pytest
from simulated_study import STUDY, WITH_RUNS

from analysis.inference.planned_effects import planned_effects
from analysis.inference.power import smallest_detectable_effect
from open_instruct.study.loading import load_study

MEASURED = {"family": "tiny", "train_set": "socialiqa", "eval_set": "socialiqa", "metric": "rouge_l"}
MEASURED |= {"format": "default", "unit": "pre-training run", "replicates": 3, "items": 100, "n": 50}
MEASURED |= {"gain_item_error": 0.01, "gain_replicate_sd": 0.03, "gain_shared_items": 0.4}

OF_ONE_FAMILY = "family: olmo1b\nsteps: [0, 20, 60, 150, 300]"


@pytest.fixture
def lines_of(base_dir):
    def lines(text, *rows, items=100):
        study_file = base_dir / "study.yaml"
        study_file.write_text(text)
        if rows:
            with (base_dir / "variation.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        return list(planned_effects(load_study(study_file), lambda eval_set: items, base_dir))

    return lines


def effect_on(lines, start):
    (line,) = [line for line in lines if line.strip().startswith(start)]
    return line.split(": ")[1].split()[0], line


def test_without_results_the_stated_defaults_are_used(lines_of):
    lines = lines_of(WITH_RUNS)
    # Two generative train sets with two metrics each, and the heading; three runs can be judged.
    assert len(lines) == 1 + 4
    for label, item_sd in (("ROUGE-L", 0.15), ("bits per byte", 0.3)):
        effect, line = effect_on(lines, f"socialiqa, {label}")
        assert effect == f"{smallest_detectable_effect(item_sd / 10, 0.02, 3, 100):.3g}"
        assert f"assumed: item SD of a difference {item_sd:g}, pre-training run SD 0.02" in line


def test_earlier_results_replace_the_defaults_and_more_items_lower_the_error(lines_of):
    effect, line = effect_on(lines_of(WITH_RUNS, MEASURED, items=400), "socialiqa, ROUGE-L")
    assert effect == f"{smallest_detectable_effect(0.005, 0.03, 3, 200, shared=0.4):.3g}"
    assert "noise of 3 pre-training runs in earlier results" in line
    # Other metrics have no earlier results.
    assert "assumed" in effect_on(lines_of(WITH_RUNS, MEASURED), "socialiqa, bits per byte")[1]


def test_the_noisiest_of_several_earlier_settings_counts(lines_of):
    lines = lines_of(WITH_RUNS, MEASURED, MEASURED | {"gain_replicate_sd": 0.06})
    effect, _ = effect_on(lines, "socialiqa, ROUGE-L")
    assert effect == f"{smallest_detectable_effect(0.01, 0.06, 3, 50, shared=0.4):.3g}"


def test_the_sd_between_seeds_is_not_taken_for_that_between_runs(lines_of):
    seeds = MEASURED | {"unit": "fine-tuning seed", "gain_replicate_sd": 0.001}
    effect, line = effect_on(lines_of(WITH_RUNS, seeds), "socialiqa, ROUGE-L")
    assert effect == f"{smallest_detectable_effect(0.01, 0.02, 3, 50, shared=0.4):.3g}"
    assert "item noise of earlier results, pre-training run SD 0.02 assumed" in line


def test_results_in_which_nothing_varied_are_no_measure_of_noise(lines_of):
    still = MEASURED | {"gain_item_error": 0, "gain_replicate_sd": 0}
    assert effect_on(lines_of(WITH_RUNS, still), "socialiqa, ROUGE-L") == effect_on(
        lines_of(WITH_RUNS), "socialiqa, ROUGE-L"
    )


def test_too_few_replicates_are_named_with_what_to_add(lines_of):
    two = STUDY.replace("socialiqa: {epochs: 3, lr: 1e-3}", "socialiqa: {epochs: 3, lr: 1e-3, seeds: [1, 2]}")
    lines = lines_of(two)
    assert "3 fine-tuning seeds, 2 planned" in effect_on(lines, "socialiqa, ROUGE-L")[1]
    judged = [line for line in lines if line.startswith("no claim")]
    assert judged == [
        "no claim on socialiqa can be judged with 2 fine-tuning seeds: add 1 more in train_sets.socialiqa.seeds",
        "no claim on hellaswag_endings can be judged with 1 pre-training run: add 2 more pre-training runs (runs, or "
        "pretrain.seeds), or 2 more in train_sets.hellaswag_endings.seeds",
    ]


def test_a_line_names_its_families_where_a_study_has_several(lines_of):
    stages = "families: {olmo2_1b: {steps: [10], stages: {stage2: {steps: [20], runs: ['1', '2', '3']}}}}"
    lines = lines_of(STUDY.replace(OF_ONE_FAMILY, stages))
    gains = [line for line in lines if line.startswith("  socialiqa, ROUGE-L")]
    # One run of stage 1, and three of stage 2.
    assert [line.split(" (")[1].split(", 100")[0] for line in gains] == [
        "3 pre-training runs, 1 planned",
        "3 pre-training runs",
    ]
    assert [line.rsplit(", in ")[1] for line in gains] == ["olmo2_1b", "olmo2_1b stage2"]
    assert {line.rsplit(", in ")[1] for line in lines if line.startswith("no claim")} == {"olmo2_1b"}
    two_families = "families: {olmo1b: [1], olmo1b_hf: [1]}"
    both = lines_of(STUDY.replace(OF_ONE_FAMILY, two_families))
    assert all(line.endswith(", in each of 2 families") for line in both[1:])
