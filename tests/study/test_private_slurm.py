"""The private cluster behaves as a real one where the study relies on it."""

import time

import pytest

pytestmark = pytest.mark.slurm


def test_a_job_has_its_gpus_and_writes_the_log_it_was_given(slurm, tmp_path):
    job = slurm.sbatch("--gpus=2", f"--output={tmp_path}/log", "--wrap=echo $CUDA_VISIBLE_DEVICES; exit 3")
    assert slurm.wait_for_job(job) == "FAILED"
    assert (tmp_path / "log").read_text() == "0,1\n"


def test_only_dependents_of_a_failed_job_are_cancelled(slurm, tmp_path):
    output = f"--output={tmp_path}/%j"
    bad, good = (slurm.sbatch(output, f"--wrap=exit {code}") for code in (1, 0))
    after = ("--kill-on-invalid-dep=yes", output, "--wrap=true")
    orphan = slurm.sbatch(f"--dependency=afterok:{bad}:{good}", *after)
    child = slurm.sbatch(f"--dependency=afterok:{good}", *after)
    assert slurm.wait_for_job(child) == "COMPLETED"
    assert slurm.wait_for_job(orphan) == "CANCELLED"


def test_an_array_runs_no_more_tasks_than_its_throttle(slurm, tmp_path):
    slurm.sbatch("--array=0-3%2", f"--output={tmp_path}/%a", "--wrap=sleep 0.7")
    most = 0
    while listed := slurm.run("squeue", "--noheader", "--format=%T").stdout.split():
        most = max(most, listed.count("RUNNING"))
        time.sleep(0.1)
    assert most == 2
    assert len(list(tmp_path.glob("[0-3]"))) == 4


def test_running_jobs_survive_a_restart_of_the_controller(slurm, tmp_path):
    end = tmp_path / "end"
    wait = f"touch {tmp_path}/began; until test -e {end}; do sleep 0.1; done; echo survived"
    job = slurm.sbatch(f"--output={tmp_path}/log", f"--wrap={wait}")
    slurm.wait_for((tmp_path / "began").exists, "the job to start")
    slurm.restart("slurmctld")
    slurm.wait_until_up()
    end.touch()
    assert slurm.wait_for_job(job) == "COMPLETED"
    assert (tmp_path / "log").read_text() == "survived\n"
