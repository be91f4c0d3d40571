"""Run a study: every stage, in order, what is done skipped.

Reads   a study file (scripts/studies/*.yaml).
Writes  what the stages write, a log a job in output/logs/{study}/, and output/jobs/{study}/: what is done.

    python scripts/run_study.py scripts/studies/tiny.yaml --dry_run
    python scripts/run_study.py scripts/studies/tiny.yaml
"""

import fcntl
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated

import tyro

from open_instruct import paths
from open_instruct.cli import run
from open_instruct.plan import Job, plan
from open_instruct.records import content_hash, read_json, write_json
from open_instruct.study import load_study


@dataclass(frozen=True)
class Args:
    study: Annotated[Path, tyro.conf.Positional]
    """The study file."""
    dry_run: bool = False
    """Print the plan and what of it is done; run nothing."""
    num_parallel: int = os.cpu_count() or 1
    """Jobs at once; the cores are shared out among them."""
    overwrite: bool = False
    """Make again what other arguments made."""


@dataclass
class Running:
    job: Job
    process: subprocess.Popen
    log: Path
    started: float


def main(args: Args) -> None:
    study = load_study(args.study)
    jobs = plan(study, args.study)
    if args.dry_run:
        print_plan(jobs, Stamps(study.name))
        return
    with sole_run(paths.base_dir() / "output" / f".{study.name}.lock") as lock:
        outcomes = run_all(jobs, Stamps(study.name), args, lock)
    print_summary(jobs, outcomes)
    if any(outcome == "failed" for outcome, _ in outcomes.values()):
        sys.exit(1)
    print(f"figures: {paths.results_dir() / 'figures'}")
    print(f"page:    {paths.results_dir() / 'report.html'}")


class Stamps:
    """What is done: after each job the hashes of all that it read and wrote, compared before it is run again.

    The stages know this themselves; the stamps spare starting a process to ask them.
    """

    def __init__(self, study_name: str) -> None:
        self.folder = paths.base_dir() / "output" / "jobs" / study_name

    def is_done(self, job: Job) -> bool:
        path = self.folder / f"{job.key}.json"
        return path.is_file() and all(p.exists() for p in job.outputs) and read_json(path) == self.current(job)

    def put(self, job: Job) -> None:
        write_json(self.folder / f"{job.key}.json", self.current(job))

    def current(self, job: Job) -> dict:
        hashes = {str(path): content_hash(path) if path.exists() else None for path in (*job.inputs, *job.outputs)}
        return {"command": list(job.command), "hashes": hashes}


def print_plan(jobs: Sequence[Job], stamps: Stamps) -> None:
    maker = {path: job.key for job in jobs for path in job.outputs}
    for job in jobs:
        after = sorted({maker[path] for path in job.inputs if path in maker})
        print(f"{job.key}{'  (done)' if stamps.is_done(job) else ''}")
        print(f"    python {' '.join(job.command)}")
        print(f"    after:  {', '.join(after) or '-'}")
        print(f"    writes: {', '.join(paths.relative(path) for path in job.outputs)}")
    print(f"{len(jobs)} jobs: " + ", ".join(f"{n} {stage}" for stage, n in Counter(j.stage for j in jobs).items()))


@contextmanager
def sole_run(path: Path) -> Iterator[IO[str]]:
    """Hold the study's lock. Jobs inherit it, so those that outlive a killed run are waited for too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("an earlier run of this study, or a job that it left behind, is still at work; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def run_all(jobs: Sequence[Job], stamps: Stamps, args: Args, lock: IO[str]) -> dict[str, tuple[str, float]]:
    """Run what is not done, each job once all it reads is there.  -> job key: (outcome, seconds)"""
    outcomes: dict[str, tuple[str, float]] = {}
    waiting, running = list(jobs), list[Running]()
    made_by = {path: job for job in jobs for path in job.outputs}

    def is_ready(job: Job) -> bool:
        return all(outcomes.get(made_by[p].key, ("", 0))[0] in ("done", "ran") for p in job.inputs if p in made_by)

    while waiting or running:
        failed = any(outcome == "failed" for outcome, _ in outcomes.values())
        for job in [] if failed else [job for job in waiting if is_ready(job)]:
            if stamps.is_done(job):
                waiting.remove(job)
                outcomes[job.key] = ("done", 0.0)
            elif not running or (
                len(running) < args.num_parallel and not job.whole_machine and not running[0].job.whole_machine
            ):
                waiting.remove(job)
                running.append(start(job, args, lock))
        if failed and not running:
            break
        for one in [one for one in running if one.process.poll() is not None]:
            running.remove(one)
            seconds = time.monotonic() - one.started
            outcomes[one.job.key] = ("ran" if one.process.returncode == 0 else "failed", seconds)
            if one.process.returncode == 0:
                stamps.put(one.job)
            report(one, number=len(outcomes), total=len(jobs), seconds=seconds)
        if running:
            time.sleep(0.02)
    return outcomes


def start(job: Job, args: Args, lock: IO[str]) -> Running:
    log = paths.base_dir() / "output" / "logs" / f"{job.key}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    cores = os.cpu_count() or 1
    num_threads = cores if job.whole_machine else max(1, cores // args.num_parallel)
    command = [sys.executable, *job.command]
    if args.overwrite and "jupyter" not in command and job.stage != "report":
        command.append("--overwrite")
    process = subprocess.Popen(
        command,
        cwd=paths.REPOSITORY,
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": str(num_threads), "TOKENIZERS_PARALLELISM": "false"},
        pass_fds=(lock.fileno(),),
    )
    return Running(job, process, log, time.monotonic())


def report(one: Running, *, number: int, total: int, seconds: float) -> None:
    """One line a job; for a failed one also what it said last and how to run it alone."""
    print(f"[{number:>3}/{total}] {one.job.stage:<9} {one.job.name:<55} {seconds:6.1f} s", flush=True)
    if one.process.returncode != 0:
        tail = "\n".join(one.log.read_text(errors="replace").splitlines()[-15:])
        command = f"python {' '.join(one.job.command)}"
        print(f"failed with exit code {one.process.returncode}; {one.log} ends with\n{tail}\nrun it alone: {command}")


def print_summary(jobs: Sequence[Job], outcomes: dict[str, tuple[str, float]]) -> None:
    print(f"\n{'stage':<10}{'jobs':>5}{'done before':>13}{'ran':>5}{'failed':>8}{'not run':>9}{'seconds':>9}")
    for stage in dict.fromkeys(job.stage for job in jobs):
        found = [outcomes.get(job.key, ("not run", 0.0)) for job in jobs if job.stage == stage]
        count = Counter(outcome for outcome, _ in found)
        seconds = sum(seconds for _, seconds in found)
        print(
            f"{stage:<10}{len(found):>5}{count['done']:>13}{count['ran']:>5}{count['failed']:>8}"
            f"{count['not run']:>9}{seconds:>9.0f}"
        )


if __name__ == "__main__":
    run(main, Args)
