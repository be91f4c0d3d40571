"""fine_tune_olmo.sh under a real Slurm: signalled before the time limit it saves, is requeued, and resumes."""

import time
from dataclasses import replace

import pytest
from toy_training import FOLDER_NAME, ROWS, largest_difference, toy_training, weights

from open_instruct import finetune
from open_instruct.common import paths
from open_instruct.common.sidecars import read_sidecar

SCRIPT = paths.REPOSITORY / "scripts" / "slurm_scripts" / "fine_tune_olmo.sh"


@pytest.mark.slurm
@pytest.mark.parametrize("num_nodes", [1, 2])
def test_a_job_signalled_before_its_time_limit_is_requeued_and_ends_with_the_same_weights(slurm, base_dir, num_nodes):
    # Many steps, so that the signal arrives before the end.
    args = replace(toy_training(ROWS * 10), num_train_epochs=3)
    name = FOLDER_NAME.replace("2epoch", "3epoch")
    variables = {
        "base_dir": str(base_dir),
        "data_dir": str(paths.data_dir()),
        "repository": str(paths.REPOSITORY),
        "data_file_name": "socialiqa",
        "ckpt": "7",
        "family": "tiny",
        "lr": "1e-3",
        "epoch": "3",
        "TOTAL_BATCH_SIZE": "4",
        "mixed_precision": "no",
        "OMP_NUM_THREADS": "1",
        # On CPUs also where there are GPUs.
        "CUDA_VISIBLE_DEVICES": "",
        "MASTER_ADDR": "127.0.0.1",
    }
    log = base_dir / "slurm.log"
    overridden = [f"--nodes={num_nodes}", "--cpus-per-task=1", "--mem=1000M", f"--output={log}"]
    job = slurm.sbatch(*overridden, str(SCRIPT), "--checkpointing_steps", "never", cwd=base_dir, env=variables)
    running = paths.fine_tuned_model(f"{name}.state") / "training_log.jsonl"
    slurm.wait_for(lambda: running.is_file() and running.read_text(), "the first step", seconds=120)
    # As Slurm does for --signal=B:USR1@300: to the script only.
    slurm.run("scancel", "--signal=USR1", "--batch", job)
    slurm.wait_for(lambda: "is requeued" in log.read_text(), "the job to be requeued", seconds=120)
    # Slurm delays the start of requeued jobs.
    until = time.monotonic() + 30
    while slurm.state(job) not in ("RUNNING", "COMPLETED") and time.monotonic() < until:
        slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)
        time.sleep(0.2)
    assert slurm.wait_for_job(job, seconds=120) == "COMPLETED", log.read_text()
    meta = read_sidecar(paths.fine_tuned_model(name))
    assert (meta["sessions"], meta["num_processes"]) == (2, num_nodes)
    finetune.main(replace(args, output_dir=base_dir / "uninterrupted"))
    difference = largest_difference(weights(base_dir / "uninterrupted"), weights(paths.fine_tuned_model(name)))
    assert difference == 0 if num_nodes == 1 else difference < 1e-5
    assert not list((base_dir / "output").glob("stop-*"))
