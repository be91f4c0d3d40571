"""Small runs of benchmarks/robustness/slurm_jobs.py and benchmarks/speed/scaling.py, which exit with 1 on failure."""

import subprocess
import sys

import pytest

from open_instruct.common.paths import REPOSITORY


def run_benchmark(name: str, *options: str) -> str:
    command = [sys.executable, str(REPOSITORY / "benchmarks" / name), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.slurm
def test_every_job_runs_once_in_order_within_its_throttle(slurm):
    output = run_benchmark("robustness/slurm_jobs.py", "--num_jobs", "24", "--throttles", "4", "2")
    assert "24 jobs drained" in output
    assert "the throttle is 4" in output


@pytest.mark.slow
def test_plan_and_status_of_a_large_study_count_its_predictions():
    output = run_benchmark("speed/scaling.py", "--stage", "plan", "--size", "2")
    # 2 checkpoints, each before and after fine-tuning on 5 sets with 3 learning rates and 3 seeds: 92 models, 20 sets.
    assert "1840 predictions" in output
    (row,) = [line.split() for line in output.splitlines() if line.startswith("predict ")]
    assert int(row[1]) == 92
    assert int(row[2]) > 85
