"""Jobs of a study through a private Slurm cluster of two nodes: throttles and order are kept; the tables are the same.

By default many trivial jobs of two stages: each records when it ran, so that the number of jobs at a time, their order
and that each ran once are known exactly. With --study a whole study, run locally and through Slurm with the same number
of threads (sums of floats depend on it): the tables must be equal byte for byte.
Needs Slurm and munge (docs/study.md). Exits with 1 at the first failure.

    python benchmarks/robustness/slurm_jobs.py
    python benchmarks/robustness/slurm_jobs.py --study scripts/studies/tiny.yaml --folder /tmp/slurm_vs_local
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.paths import REPOSITORY
from open_instruct.study.config import Resources, Study
from open_instruct.study.executors.slurm import Submitter
from open_instruct.study.job import Job

sys.path.insert(0, str(REPOSITORY / "tests" / "helpers"))
from private_slurm import PrivateSlurm, require_programs
from slurm_study import tables

SCRIPT = """#!/usr/bin/env bash
#SBATCH --cpus-per-task=1
#SBATCH --mem=10M
set -euo pipefail
began=$EPOCHREALTIME
echo made > "$output"
echo "$began $EPOCHREALTIME" >> "$output.times"
"""
STAGES = ("predict", "score")
"""Each job of the second stage waits for one of the first."""
MAX_HOURS = 2.0


@dataclass(frozen=True)
class Args:
    num_jobs: int = 1000
    """Trivial jobs, half of them in each stage."""
    throttles: tuple[int, int] = (8, 5)
    """Jobs of each stage that may run at a time."""
    study: Path | None = None
    """Run this study locally and through Slurm instead."""
    folder: Path | None = None
    """Where to keep both runs of the study; run again, it continues (default: a temporary folder)."""


def main(args: Args) -> None:
    require_programs()
    with tempfile.TemporaryDirectory() as temporary, PrivateSlurm() as cluster:
        folder = args.folder or Path(temporary)
        if args.study:
            compare_tables(args.study, folder, cluster)
        else:
            run_trivial_jobs(args, folder, cluster)


def run_trivial_jobs(args: Args, folder: Path, cluster: PrivateSlurm) -> None:
    os.environ.update(cluster.environment | {"base_dir": str(folder)})
    jobs = trivial_jobs(folder, args.num_jobs)
    started = time.monotonic()
    submit(jobs, args.throttles)
    print(f"submitted {len(jobs)} jobs in {time.monotonic() - started:.1f} s", flush=True)
    cluster.wait_until_empty(seconds=MAX_HOURS * 3600)
    seconds = time.monotonic() - started
    for stage, throttle in zip(STAGES, args.throttles, strict=True):
        check_throttle(stage, [job for job in jobs if job.stage == stage], throttle)
    check_order(jobs)
    print(f"{len(jobs)} jobs drained in {seconds:.0f} s, each ran once and after the job that it waits for")


def trivial_jobs(folder: Path, num_jobs: int) -> list[Job]:
    script = folder / "trivial.sh"
    script.write_text(SCRIPT)
    jobs: list[Job] = []
    for stage in STAGES:
        for number in range(num_jobs // len(STAGES)):
            output = folder / f"{stage}-{number}"
            inputs = (folder / f"{STAGES[0]}-{number}",) if stage != STAGES[0] else ()
            command = ("bash", str(script), str(output))
            jobs.append(Job(stage, str(number), command, (output,), inputs, str(script), {"output": str(output)}))
    return jobs


def submit(jobs: Sequence[Job], throttles: Sequence[int]) -> None:
    resources = {stage: Resources(throttle=throttle) for stage, throttle in zip(STAGES, throttles, strict=True)}
    study = Study("thousand", train_sets={}, evaluation={}, resources=resources)
    order = Submitter(study, jobs, done=set(), failed=set(), num_bytes={}).submit({job.id for job in jobs})
    require(len(order.submitted) == len(jobs), f"{len(order.submitted)} of {len(jobs)} jobs were submitted")


def check_throttle(stage: str, jobs: Sequence[Job], throttle: int) -> None:
    times = [line.split() for job in jobs for line in times_file(job).read_text().splitlines()]
    require(len(times) == len(jobs), f"{stage}: {len(jobs)} jobs ran {len(times)} times")
    changes = sorted([(float(began), 1) for began, _ in times] + [(float(ended), -1) for _, ended in times])
    most = max(accumulate(change for _, change in changes))
    require(most <= throttle, f"{stage}: {most} jobs ran at a time, expected at most {throttle}")
    print(f"{stage}: {len(jobs)} jobs, at most {most} at a time; the throttle is {throttle}")


def check_order(jobs: Sequence[Job]) -> None:
    made_by = {path: job for job in jobs for path in job.outputs}
    for job in jobs:
        for path in job.inputs:
            ended, began = times_file(made_by[path]).read_text().split()[1], times_file(job).read_text().split()[0]
            require(float(ended) <= float(began), f"{job.key} began before {made_by[path].key} ended")


def times_file(job: Job) -> Path:
    return job.outputs[0].with_name(f"{job.outputs[0].name}.times")


def compare_tables(study: Path, folder: Path, cluster: PrivateSlurm) -> None:
    local, on_slurm = folder / "local", folder / "slurm"
    for base_dir in (local, on_slurm):
        base_dir.mkdir(parents=True, exist_ok=True)
    run_study(study, os.environ | {"base_dir": str(local)})
    started = time.monotonic()
    # As in the local run, every job has one thread.
    environment = cluster.environment | {"base_dir": str(on_slurm), "OMP_NUM_THREADS": "1"}
    run_study(study, environment, "--executor", "slurm", "--retry_failed")
    cluster.wait_until_empty(seconds=MAX_HOURS * 3600)
    run_study(study, environment, "--executor", "slurm", "--status")
    print(f"through Slurm: {time.monotonic() - started:.0f} s", flush=True)
    one, other = tables(local), tables(on_slurm)
    differing = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    require(bool(one) and not differing, f"these tables differ: {', '.join(differing) or 'none was made'}")
    print(f"the same, byte for byte: {', '.join(sorted(one))}")


def run_study(study: Path, environment: Mapping[str, str], *options: str) -> None:
    """Raises UserError if it fails."""
    command = [sys.executable, str(REPOSITORY / "scripts" / "run_study.py"), str(study), *options]
    if code := subprocess.run(command, env=environment, check=False).returncode:
        raise UserError(f"{study} ended with {code}; the reason is printed above")


def require(condition: bool, message: str) -> None:
    if not condition:
        sys.exit(message)


if __name__ == "__main__":
    run(main, Args)
