"""States of jobs on a Slurm cluster, where they differ from those of a local run: queued, cancelled, run again."""

import os
import signal
from pathlib import Path

import pytest
from fake_jobs import current_status, states, study_named, wait_for

from open_instruct.study import status_page
from open_instruct.study.executors import slurm_client
from open_instruct.study.executors.slurm import Submitter
from open_instruct.study.executors.submissions import all_submissions, prepare
from open_instruct.study.job import Job
from open_instruct.study.status import JobStatus

pytestmark = pytest.mark.slurm
WRITE = 'echo made > "$output"'
FAIL = "echo 'error: no cat was found; put one on the mat' >&2; echo 'warning: leaked' >&2; exit 3"
HANG = 'echo $$ > "$output.pid"; sleep 60 & wait'
HANG_THEN_END_WELL = f"trap 'exit 0' TERM; {HANG}"
"""What a shell does, too, where the signal reaches the command that it waits for first."""
on_slurm = {"executor": "slurm"}


@pytest.fixture
def make_job(slurm, base_dir, monkeypatch):
    for variable, value in (slurm.environment | {"base_dir": str(base_dir)}).items():
        monkeypatch.setenv(variable, value)

    def make(name: str, code: str, *inputs: Job) -> Job:
        script, output = base_dir / f"{name}.sh", base_dir / name
        script.write_text(f"#!/usr/bin/env bash\n#SBATCH --mem=10M\n{code}\n")
        before = tuple(job.outputs[0] for job in inputs)
        # A stage for each: it is a job array of its own.
        stage = ("pretrain", "convert", "predict", "score", "suite")[len(list(base_dir.glob("*.sh"))) - 1]
        return Job(stage, name, (name,), (output,), before, str(script), {"output": str(output)})

    return make


def submit(*jobs: Job, study_name: str = "toy", retry_failed: bool = False) -> set[str]:
    """Names of the jobs that are submitted."""
    now = current_status(*jobs, study_name=study_name, **on_slurm)
    failed = set() if retry_failed else now.ids("failed")
    submitter = Submitter(study_named(study_name), jobs, done=now.ids("done"), failed=failed, num_bytes={})
    result = submitter.submit({job.id for job in jobs})
    return {job.name for job in jobs if job.id in result.submitted}


def by_name(*jobs: Job) -> dict[str, JobStatus]:
    return {one.job.name: one for one in current_status(*jobs, **on_slurm).jobs}


def pid_when_started(job: Job) -> int:
    file = job.outputs[0].with_name(f"{job.name}.pid")
    wait_for(lambda: file.is_file() and bool(file.read_text()))
    return int(file.read_text())


def test_states_of_failed_waiting_killed_and_cancelled_jobs(slurm, make_job):
    bad, killed, cancelled = make_job("bad", FAIL), make_job("killed", HANG), make_job("cancelled", HANG_THEN_END_WELL)
    jobs = [bad, killed, cancelled, make_job("after-bad", WRITE, bad), make_job("after-killed", WRITE, killed)]
    assert set(states(*jobs, **on_slurm).values()) == {"waiting"}
    submit(*jobs)
    pids = [pid_when_started(job) for job in (killed, cancelled)]
    # Slurm gives its reason when its scheduler has looked at the job.
    wait_for(lambda: by_name(*jobs)["after-killed"].reason == "queued on Slurm (Dependency)")
    now = by_name(*jobs)
    assert [now[name].state for name in ("killed", "cancelled", "after-killed")] == ["running", "running", "waiting"]

    os.kill(pids[0], signal.SIGKILL)
    slurm.run("scancel", now["cancelled"].where)
    slurm.wait_until_empty()
    now = current_status(*jobs, **on_slurm)
    assert {one.job.name: one.state for one in now.jobs} == {
        "bad": "failed",
        "killed": "stopped",
        "cancelled": "stopped",
        "after-bad": "waiting",
        "after-killed": "waiting",
    }
    text = status_page.as_text(now)
    assert "pretrain.bad: exit code 3: error: no cat was found; put one on the mat (" in text
    assert "convert.killed: ended by SIGKILL (" in text
    assert "1 score: for pretrain.bad, which failed" in text
    # Another study with the same jobs has not failed.
    assert states(*jobs, study_name="toy-2", **on_slurm)["bad"] == "waiting"

    # Stopped jobs are submitted again, failed ones only on demand.
    for job in jobs:
        Path(job.script).write_text(f"#!/usr/bin/env bash\n{WRITE}\n")
    assert submit(*jobs) == {"killed", "cancelled", "after-killed"}
    slurm.wait_until_empty()
    assert submit(*jobs, retry_failed=True) == {"bad", "after-bad"}
    slurm.wait_until_empty()
    assert set(states(*jobs, **on_slurm).values()) == {"done"}


def test_a_job_that_ends_before_it_records_its_start_failed_if_its_log_says_why(slurm, make_job, monkeypatch):
    job = make_job("one", WRITE)
    submit(job)
    slurm.wait_until_empty()
    (submission,) = all_submissions()
    for path in (job.outputs[0], *(submission.folder.parents[1] / "jobs").rglob("*.json")):
        path.unlink()
    for text, state in (("ModuleNotFoundError: No module named 'tyro'\n", "failed"), ("", "stopped")):
        submission.log(0).write_text(text)
        assert states(job, **on_slurm) == {"one": state}


def test_status_leaves_an_interrupted_submission_and_the_next_submission_cancels_it(slurm, make_job):
    job = make_job("one", WRITE)
    submission = prepare("toy", "pretrain", {0: job}, {})
    script, name = str(submission.folder / "job.sh"), f"--job-name={submission.name}"
    array = slurm_client.submit(script, [name, "--array=0", "--hold", "--output=/dev/null"])
    assert states(job, **on_slurm) == {"one": "waiting"}
    assert slurm.state(array) == "PENDING"
    assert submit(job) == {"one"}
    slurm.wait_until_empty()
    assert slurm.state(array) == "CANCELLED"
    assert states(job, **on_slurm) == {"one": "done"}
