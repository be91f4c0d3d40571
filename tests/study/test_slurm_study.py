"""A whole study through Slurm: submitted twice, damaged and repaired; its tables are those of a local run."""

import re
import time

import pytest
import yaml
from slurm_faults import Faults, flip
from slurm_study import NUM_JOBS, SMALL, SlurmStudy
from toy_study import FAMILY

from open_instruct.common.sidecars import read_sidecar
from open_instruct.study.status import STATES

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
MOST_SECONDS = 600.0
"""Of any wait, on a busy machine."""


@pytest.fixture(scope="module")
def study(slurm, tmp_path_factory):
    return SlurmStudy(slurm, tmp_path_factory.mktemp("study"))


def finish(study: SlurmStudy) -> None:
    """Run all jobs that are not done."""
    study.run("--retry_failed")
    study.cluster.wait_until_empty(seconds=MOST_SECONDS)
    assert study.counts() == dict.fromkeys(STATES, 0) | {"done": NUM_JOBS}


def test_a_study_recovers_from_faults_to_the_tables_of_a_local_run(study, slurm, undisturbed_tables):
    assert f"submitted {NUM_JOBS} jobs" in study.run()
    again = study.run()
    assert "submitted 0 jobs" in again
    # On a slow machine the first jobs have ended by then.
    done, queued = re.findall(r"(?:done|in the queue) before: (\d+)", again)
    assert int(done) + int(queued) == NUM_JOBS

    # The fine-tuning is cancelled and a running job killed: all jobs that do not depend on them still run.
    faults = Faults(study, seed=1)
    (fine_tuning,) = {
        name for name in slurm.run("squeue", "--noheader", "--format=%j").stdout.split() if "-fine" in name
    }
    slurm.run("scancel", f"--name={fine_tuning}")
    slurm.wait_for(lambda: f"convert.{FAMILY}_checkpoint-4" in study.finished_jobs(), "a model", seconds=MOST_SECONDS)
    slurm.wait_for(faults.kill_job, "a job to kill", seconds=MOST_SECONDS)
    slurm.wait_until_empty(seconds=MOST_SECONDS)
    counts = study.counts()
    assert counts["running"] == 0
    assert 0 < counts["done"] < NUM_JOBS

    # A flipped bit is a damage, a wrong clock is none.
    weights = study.base_dir / "output" / f"{FAMILY}_tf_ckpts" / "checkpoint-4" / "model.safetensors"
    flip(weights, faults.random, keep_time=True)
    faults.skew()
    assert study.verify() == {f"convert.{FAMILY}_checkpoint-4"}
    before = study.finished_jobs()
    finish(study)
    assert study.verify() == set()
    kept = before.keys() - study.descendants(study.jobs().keys() - before.keys())
    assert {key: study.finished_jobs()[key] for key in kept} == {key: before[key] for key in kept}
    assert study.tables() == undisturbed_tables


def test_a_training_stopped_at_its_time_limit_is_requeued_and_resumes(study, slurm):
    """In a second study, which finds the first one's data and base model."""
    finish(study)
    longer = SlurmStudy(slurm, study.file.parent, name="longer")
    recipe = SMALL["train_sets"]["socialiqa"] | {"epochs": 200}
    longer.file.write_text(yaml.safe_dump(SMALL | {"name": "longer", "train_sets": {"socialiqa": recipe}}))
    made = longer.sidecars()
    longer.run("--only", "format", "finetune")
    output = longer.base_dir / "output" / f"{FAMILY}_hf_ckpt4_socialiqa_200epoch_1e-3_rows16_fp32"
    log = output.with_name(f"{output.name}.state") / "training_log.jsonl"
    slurm.wait_for(lambda: log.is_file() and len(log.read_text().splitlines()) > 20, "20 steps", seconds=MOST_SECONDS)
    assert f"finetune.{output.name} (" in longer.run("--status")

    faults = Faults(longer, seed=0)
    assert faults.warn()
    while faults.tasks("RUNNING", "PENDING", "COMPLETING"):
        faults.hurry()
        time.sleep(0.2)
    (slurm_log,) = (longer.base_dir / "output" / "slurm").glob("longer-finetune-*/*.log")
    assert "is requeued, to resume where it stopped" in slurm_log.read_text()
    assert read_sidecar(output)["sessions"] == 2
    assert {path: longer.sidecars()[path] for path in made} == made
