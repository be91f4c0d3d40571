"""Many trivial jobs of two stages through a private Slurm cluster, as a study hands them over: is each throttle kept?

Each job writes down when it began and ended; so it is known exactly how many worked at once, in what order, and that
each ran once. Stops with what went wrong, else prints how long it took.

    python benchmarks/thousand_jobs.py
    python benchmarks/thousand_jobs.py --num_jobs 40 --throttles 4 2
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from open_instruct.common.cli import run
from open_instruct.study.config import Resources, Study
from open_instruct.study.executors.slurm import Submitter
from open_instruct.study.job import Job

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))
SCRIPT = """#!/usr/bin/env bash
#SBATCH --cpus-per-task=1
#SBATCH --mem=10M
set -euo pipefail
began=$EPOCHREALTIME
echo made > "$output"
echo "$began $EPOCHREALTIME" >> "$output.times"
"""
STAGES = ("predict", "score")
"""Of a study; the second waits for the first, job by job."""


@dataclass(frozen=True)
class Args:
    num_jobs: int = 1000
    """Half of them in each stage."""
    throttles: tuple[int, int] = (8, 5)


def main(args: Args) -> None:
    from private_slurm import PrivateSlurm, require_programs

    require_programs()
    with tempfile.TemporaryDirectory() as folder, PrivateSlurm() as cluster:
        os.environ.update(cluster.environment | {"base_dir": folder})
        jobs = trivial_jobs(Path(folder), args.num_jobs)
        started = time.monotonic()
        submit(jobs, args.throttles)
        print(f"submitted {len(jobs)} jobs in {time.monotonic() - started:.1f} s", flush=True)
        most = watch()
        seconds = time.monotonic() - started
        for stage, throttle in zip(STAGES, args.throttles, strict=True):
            check(stage, [job for job in jobs if job.stage == stage], throttle, most[stage])
        check_order(jobs)
        print(f"{len(jobs)} jobs drained in {seconds:.0f} s, each ran once and after what it waits for")


def trivial_jobs(folder: Path, num_jobs: int) -> list[Job]:
    script = folder / "trivial.sh"
    script.write_text(SCRIPT)
    jobs: list[Job] = []
    for stage in STAGES:
        for number in range(num_jobs // len(STAGES)):
            output = folder / f"{stage}-{number}"
            inputs = (folder / f"{STAGES[0]}-{number}",) if stage != STAGES[0] else ()
            variables = {"output": str(output)}
            command = ("bash", str(script), str(output))
            jobs.append(Job(stage, str(number), command, (output,), inputs, str(script), variables))
    return jobs


def submit(jobs: Sequence[Job], throttles: Sequence[int]) -> None:
    resources = {stage: Resources(throttle=throttle) for stage, throttle in zip(STAGES, throttles, strict=True)}
    study = Study("thousand", train_sets={}, evaluation={}, resources=resources)
    result = Submitter(study, jobs, done=set(), failed=set(), num_bytes={}).submit({job.id for job in jobs})
    require(len(result.submitted) == len(jobs), f"{len(result.submitted)} of {len(jobs)} jobs were submitted")


def watch() -> dict[str, int]:
    """Wait until the queue is empty.  -> most jobs of each stage that ran at once, as squeue saw it"""
    most = dict.fromkeys(STAGES, 0)
    command = ["squeue", "--noheader", "--array", "--format=%j %T"]
    while listed := subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        running = [line.split("-")[1] for line in listed if line.endswith("RUNNING")]
        most = {stage: max(most[stage], running.count(stage)) for stage in STAGES}
        time.sleep(0.2)
    return most


def check(stage: str, jobs: Sequence[Job], throttle: int, seen: int) -> None:
    times = [line.split() for job in jobs for line in times_file(job).read_text().splitlines()]
    require(len(times) == len(jobs), f"{stage}: {len(jobs)} jobs worked {len(times)} times")
    changes = sorted([(float(began), 1) for began, _ in times] + [(float(ended), -1) for _, ended in times])
    at_once = most_at_once = 0
    for _, change in changes:
        at_once += change
        most_at_once = max(most_at_once, at_once)
    require(max(seen, most_at_once) <= throttle, f"{stage}: {seen} ran at once, {throttle} were allowed")
    print(f"{stage}: {len(jobs)} jobs, at most {seen} at once in the queue; the throttle is {throttle}")


def check_order(jobs: Sequence[Job]) -> None:
    made = {path: job for job in jobs for path in job.outputs}
    for job in jobs:
        for path in job.inputs:
            ended, began = times_file(made[path]).read_text().split()[1], times_file(job).read_text().split()[0]
            require(float(ended) <= float(began), f"{job.key} began before {made[path].key} ended")


def times_file(job: Job) -> Path:
    return job.outputs[0].with_name(f"{job.outputs[0].name}.times")


def require(holds: bool, otherwise: str) -> None:
    if not holds:
        sys.exit(otherwise)


if __name__ == "__main__":
    run(main, Args)
