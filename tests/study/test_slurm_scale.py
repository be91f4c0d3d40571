"""Small instances of benchmarks/thousand_jobs.py and benchmarks/large_study.py, which stop where something is wrong."""

import subprocess
import sys

from open_instruct.common.paths import REPOSITORY


def run_benchmark(name: str, *options: str) -> str:
    command = [sys.executable, str(REPOSITORY / "benchmarks" / f"{name}.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_job_runs_once_in_order_within_its_throttle(slurm):
    said = run_benchmark("thousand_jobs", "--num_jobs", "24", "--throttles", "4", "2")
    assert "24 jobs drained" in said
    assert "the throttle is 4" in said


def test_a_large_study_is_planned_and_asked_for():
    said = run_benchmark("large_study", "--num_checkpoints", "2", "--num_evaluation_sets", "3")
    # 2 checkpoints, each as it is and tuned on 5 sets with 3 learning rates and 3 seeds: 92 models, 3 questions each.
    assert "276 predictions" in said
    (row,) = [line.split() for line in said.splitlines() if line.startswith("predict ")]
    assert int(row[1]) == 92
    assert int(row[2]) > 85
