"""A whole study through Slurm: submitted twice, hurt, mended; its tables are those of a run on this machine."""

import time

import pytest
import yaml
from slurm_faults import Faults
from slurm_study import NUM_JOBS, STUDY, SlurmStudy, run_locally

from open_instruct.common import paths
from open_instruct.common.artifacts import read_sidecar

LONG = 600.0
"""Seconds, on a machine that has other things to do."""
FINE_TUNE = str(paths.REPOSITORY / "scripts" / "slurm_scripts" / "fine_tune_olmo.sh")


@pytest.fixture(scope="module")
def study(slurm, tmp_path_factory):
    return SlurmStudy(slurm, tmp_path_factory.mktemp("study"))


def finish(study: SlurmStudy) -> None:
    """Whatever an earlier test left undone; nothing where it is done."""
    study.run("--retry_failed")
    study.cluster.wait_until_empty(seconds=LONG)
    assert study.counts() == {"done": NUM_JOBS, "running": 0, "queued": 0, "failed": 0, "missing": 0}


def test_a_study_on_slurm_is_mended_and_equals_a_local_run(study, slurm, tmp_path):
    assert f"submitted {NUM_JOBS} jobs" in study.run()
    again = study.run()
    assert "submitted 0 jobs" in again
    assert f"in the queue before: {NUM_JOBS}" in again

    # The fine-tuning is taken out of the queue and something that runs is killed: what needs them goes too, all else
    # runs to its end.
    faults = Faults(study, seed=1)
    (fine_tuning,) = {
        name for name in slurm.run("squeue", "--noheader", "--format=%j").stdout.split() if "-fine" in name
    }
    slurm.run("scancel", f"--name={fine_tuning}")
    slurm.wait_for(lambda: "convert.tiny_checkpoint-4" in study.stamps(), "a model", seconds=LONG)
    slurm.wait_for(faults.kill_job, "a job to kill", seconds=LONG)
    slurm.wait_until_empty(seconds=LONG)
    counts = study.counts()
    assert counts["running"] == counts["queued"] == 0
    assert 0 < counts["done"] < NUM_JOBS

    # What is finished is damaged; a clock that is wrong damages nothing.
    damaged = set[str]()
    for name in ("bit flipped, time kept", "clock skew"):
        damaged |= faults.at_rest[name]()
    assert study.verify() == damaged
    before = study.stamps()
    finish(study)
    assert study.verify() == set()
    kept = before.keys() - study.descendants(study.jobs().keys() - before.keys())
    assert {key: study.stamps()[key] for key in kept} == {key: before[key] for key in kept}

    assert len(study.tables()) == 2
    assert study.tables() == run_locally(tmp_path)


def test_a_training_that_is_out_of_time_goes_on_where_it_stopped(study, slurm):
    """In a second study, which finds the first one's checkpoints, data and base models done."""
    finish(study)
    longer = SlurmStudy(slurm, study.file.parent, name="longer")
    recipe = STUDY["train_sets"]["socialiqa"] | {"epochs": 300}
    longer.file.write_text(yaml.safe_dump(STUDY | {"name": "longer", "train_sets": {"socialiqa": recipe}}))
    made = longer.sidecars()
    longer.run("--only", "pretrain", "format", "finetune")
    output = longer.base_dir / "output" / "tiny_hf_ckpt4_socialiqa_300epoch_1e-3"
    log = output.with_name(f"{output.name}.state") / "training_log.jsonl"
    slurm.wait_for(lambda: log.is_file() and len(log.read_text().splitlines()) > 20, "some steps", seconds=LONG)
    running = longer.run("--status")
    assert "finetune.tiny_hf_ckpt4_socialiqa_300epoch_1e-3 (" in running

    faults = Faults(longer, seed=0)
    assert faults.warn()
    while faults.tasks("RUNNING", "PENDING", "COMPLETING"):
        faults.hurry()
        time.sleep(0.2)
    (said,) = (longer.base_dir / "output" / "slurm").glob("longer-finetune-*/*.log")
    assert "goes back into the queue, to go on where it stopped" in said.read_text()
    assert read_sidecar(output)["sessions"] == 2
    assert {path: longer.sidecars()[path] for path in made} == made


def test_the_fine_tuning_script_alone(study, slurm, tmp_path):
    finish(study)
    environment = {"base_dir": str(study.base_dir), "family": "tiny", "lr": "2e-3", "epoch": "1"}
    options = (f"--output={tmp_path}/log", "--gpus=1", FINE_TUNE, "--max_train_rows", "16")
    given = {"data_file_name": "socialiqa", "ckpt": "4", "mixed_precision": "no"}
    job = slurm.sbatch(*options, cwd=paths.REPOSITORY, env=environment | given)
    assert slurm.wait_for_job(job, seconds=LONG) == "COMPLETED", (tmp_path / "log").read_text()
    made = read_sidecar(study.base_dir / "output" / "tiny_hf_ckpt4_socialiqa_1epoch_2e-3")
    assert (made["identity"]["step"], made["arguments"]["learning_rate"]) == (4, 2e-3)

    for missing in ("data_file_name", "ckpt"):
        rest = {name: value for name, value in given.items() if name != missing}
        job = slurm.sbatch(*options, cwd=paths.REPOSITORY, env=environment | rest)
        assert slurm.wait_for_job(job, seconds=LONG) == "FAILED"
        assert f"set {missing} to" in (tmp_path / "log").read_text()
