"""A stage of pre-training that counts its own steps is a curve of its own, with its own runs."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file
from simulated_study import STUDY, write_metrics

from analysis import produce_tables
from analysis.inference.findings import find
from analysis.inference.result_tables import plan_of
from analysis.tables.columns import Comparison
from analysis.tables.frames import read_tables, select
from analysis.tables.parameters import with_parameters
from analysis.tables.replicates import RUN
from open_instruct.checkpoints.families import Checkpoint
from open_instruct.common import paths
from open_instruct.study.config import Study
from open_instruct.study.loading import load_study

STEPS = (1000, 2000, 3000)
STUDY_FILE = STUDY.replace("olmo1b", "olmo2_1b").replace("[0, 20, 60, 150, 300]", str(list(STEPS)))
LATER = "olmo2_1b stage2"
TOKENS_PER_STEP, LAST_STEP = 2_097_152, 1_907_359
"""Of OLMo-2-0425-1B, the last one of stage 1."""
PLACE = {"setting": "socialiqa", "format": "default", "metric": "bits_per_byte"}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """One run of stage 1 and three of stage 2, at the same steps."""
    base_dir = tmp_path_factory.mktemp("stages")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("base_dir", str(base_dir))
        (base_dir / "simulated.yaml").write_text(STUDY_FILE)
        study = load_study(base_dir / "simulated.yaml")
        for variant in study.variants():
            for stage, run in ((None, None), ("stage2", "1"), ("stage2", "2"), ("stage2", "3")):
                one = replace(variant, checkpoint=replace(variant.checkpoint, stage=stage, run=run))
                for eval_set in ("socialiqa", "heldout_text"):
                    # Stage 2 starts where a model without any effect of pre-training would not be.
                    write_metrics(study, one, eval_set, "default", num_items=20, effect=2.0 if stage else 1.0)
        produce_tables.main(produce_tables.Args())
        return read_tables(paths.results_dir("all"))


def test_tables_name_stage_and_run_of_every_model(tables):
    models = tables.performance[["model_id", "stage", "run", "family"]].drop_duplicates()
    later = select(models, stage="stage2")
    assert set(later["run"]) == {"1", "2", "3"}
    assert set(later["family"]) == {LATER}
    first = select(models, stage=None)
    assert set(first["family"]) == {"olmo2_1b"}
    assert len(later) == 3 * len(first)
    assert all("stage2" in name for name in later["model_id"])


def test_runs_of_a_later_stage_are_replicates_and_the_first_stage_is_none_of_them(tables):
    levels = select(tables.levels, **PLACE)
    found = {row["series"]: (row["unit"], row["replicates"]) for row in levels.to_dict("records")}
    assert found["olmo2_1b base"] == found["olmo2_1b socialiqa"] == (None, 1)
    assert found[f"{LATER} base"] == found[f"{LATER} socialiqa"] == (RUN, 3)


def test_a_level_is_the_mean_of_the_models_of_one_stage(tables):
    for stage in (None, "stage2"):
        models = select(tables.performance, stage=stage, step=1000, train_set=None, **PLACE)
        (level,) = select(tables.levels, stage=stage, step=1000, train_set=None, **PLACE)["Performance"]
        assert level == pytest.approx(models["Performance"].mean())
    both = select(tables.performance, step=1000, train_set=None, **PLACE)["Performance"]
    assert both.max() - both.min() > 0.5


def test_a_fine_tuned_model_is_compared_with_the_base_of_its_own_stage(tables):
    changes = select(tables.differences, comparison=Comparison.CHANGE, train_set="socialiqa", **PLACE)
    assert len(changes) == 2 * len(STEPS)
    for row in changes.to_dict("records"):
        assert row["reference"] == f"{row['family']} base"
        at = {"family": row["family"], "checkpoint": row["checkpoint"], **PLACE}
        base, tuned = (
            select(tables.levels, train_set=name, **at)["Performance"].item() for name in (None, "socialiqa")
        )
        assert row["difference"] == pytest.approx(tuned - base)


def test_tokens_of_a_later_stage_follow_those_of_the_first(tables):
    tokens = {(row["stage"], row["step"]): row["tokens"] for row in tables.levels.to_dict("records")}
    assert tokens[None, 1000] == 1000 * TOKENS_PER_STEP
    assert tokens["stage2", 1000] == (LAST_STEP + 1000) * TOKENS_PER_STEP


def test_claims_are_of_one_stage_each(tables):
    found = [one for one in find(tables) if one.question == "latent benefit: level"]
    assert {one.series: one.replicates for one in found} == {"olmo2_1b socialiqa": 1, f"{LATER} socialiqa": 3}
    assert not any(one.missing for one in found if one.series.startswith(LATER))


def test_variation_is_of_each_stage(tables):
    rows = {row["series"]: row for row in select(tables.variation, **PLACE).to_dict("records")}
    assert rows[f"{LATER} base"]["replicates"] == 3
    # Stages differ by more than half a bit per byte, their runs by 0.005.
    assert rows[f"{LATER} base"]["run_sd"] < 0.1
    assert rows["olmo2_1b base"]["replicates"] == 1


def test_parameters_are_those_that_the_family_declares(tables):
    assert set(tables.performance["parameters"]) == set(tables.levels["parameters"]) == {1_480_000_000}


def test_a_study_expects_the_steps_and_runs_of_each_stage(monkeypatch):
    stages = ((None, None), ("stage2", "1"), ("stage2", "2"))
    checkpoints = [
        Checkpoint("olmo2_1b", step, run, stage) for stage, run in stages for step in STEPS[: 2 + bool(stage)]
    ]
    monkeypatch.setattr(Study, "checkpoints", lambda study: checkpoints)
    plan = plan_of(Study("stages"))
    assert plan.checkpoints["olmo2_1b"] == ["1000", "2000"]
    assert plan.checkpoints[LATER] == ["1000", "2000", "3000"]
    assert plan.runs == {"olmo2_1b": {None}, LATER: {"1", "2"}}


def test_parameters_that_no_family_declares_are_counted_in_the_folder_of_the_base_model(tmp_path):
    save_file({"weight": np.zeros((3, 5), np.float32), "bias": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    rows = [{"family": "mine", "run": run, "train_set": train_set} for run in "ab" for train_set in (None, "xsum")]
    found = with_parameters(rows, {("mine", None, "a"): tmp_path})
    assert [row["parameters"] for row in found] == [18, 18, None, None]
