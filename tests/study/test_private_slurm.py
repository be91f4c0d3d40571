"""The private cluster behaves as a real one where the study relies on it."""

import time

SLEEP = "--wrap=sleep 1"


def test_a_job_sees_its_gpus_and_its_log_is_where_it_was_said(slurm, tmp_path):
    job = slurm.sbatch("--gpus=2", f"--output={tmp_path}/log", "--wrap=echo $CUDA_VISIBLE_DEVICES; exit 3")
    assert slurm.wait_for_job(job) == "FAILED"
    assert (tmp_path / "log").read_text() == "0,1\n"


def test_what_waits_for_a_failed_job_is_cancelled_and_the_rest_runs(slurm, tmp_path):
    output = f"--output={tmp_path}/%j"
    bad, good = (slurm.sbatch(output, f"--wrap=exit {code}") for code in (1, 0))
    after = ("--kill-on-invalid-dep=yes", output, "--wrap=true")
    orphan = slurm.sbatch(f"--dependency=afterok:{bad}:{good}", *after)
    child = slurm.sbatch(f"--dependency=afterok:{good}", *after)
    assert slurm.wait_for_job(child) == "COMPLETED"
    assert slurm.wait_for_job(orphan) == "CANCELLED"


def test_an_array_keeps_to_its_throttle(slurm, tmp_path):
    slurm.sbatch("--array=0-5%2", f"--output={tmp_path}/%a", SLEEP)
    most = 0
    while listed := slurm.run("squeue", "--noheader", "--format=%T").stdout.split():
        most = max(most, listed.count("RUNNING"))
        time.sleep(0.1)
    assert most == 2
    assert len(list(tmp_path.glob("[0-5]"))) == 6


def test_jobs_outlive_the_controller(slurm, tmp_path):
    job = slurm.sbatch(f"--output={tmp_path}/log", f"--wrap=touch {tmp_path}/began; sleep 2; echo lived")
    slurm.wait_for((tmp_path / "began").exists, "the job to begin")
    slurm.restart("slurmctld")
    slurm.wait_until_up()
    assert slurm.wait_for_job(job) == "COMPLETED"
    assert (tmp_path / "log").read_text() == "lived\n"
