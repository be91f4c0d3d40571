"""Run a study: every stage, in order, what is done skipped.

Reads   a study file (scripts/studies/*.yaml).
Writes  what the stages write, a log a job in output/logs/{study}/, and output/jobs/{study}/: what is done.

    python scripts/run_study.py scripts/studies/tiny.yaml --dry_run
    python scripts/run_study.py scripts/studies/tiny.yaml
"""

import fcntl
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from olmo_eval.tasks import task_named
from open_instruct import paths, warm_process
from open_instruct.cli import run
from open_instruct.plan import Job, plan
from open_instruct.records import UserError, content_hash, read_json, write_json
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
    process: BaseProcess
    log: Path
    started: float


class Outcome(NamedTuple):
    state: str
    """`done` before, `ran`, or `failed`."""
    seconds: float = 0.0
    exit_code: int = 0


def main(args: Args) -> None:
    study = load_study(args.study)
    for task in study.suite.tasks if study.suite else ():
        task_named(task)
    jobs = plan(study, args.study)
    if args.dry_run:
        print_plan(jobs, Stamps(study.name))
        return
    with sole_run(study.name) as lock:
        outcomes = run_all(jobs, Stamps(study.name), args, lock)
    print_summary(jobs, outcomes)
    if failed := [outcome.exit_code for outcome in outcomes.values() if outcome.state == "failed"]:
        sys.exit(failed[0])
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
def sole_run(study_name: str) -> Iterator[Path]:
    """No other run of this study, and no job that a killed one left behind.  Yields the lock that jobs are to hold."""
    folder = paths.base_dir() / "output" / "jobs" / study_name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "run.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"study {study_name} is running already in {paths.base_dir()}; wait for it, or end it"
            ) from error
        warm_process.wait_for_earlier(folder / "jobs.lock")
        yield folder / "jobs.lock"


def run_all(jobs: Sequence[Job], stamps: Stamps, args: Args, lock: Path) -> dict[str, Outcome]:
    """Run what is not done, each job once all it reads is there.  -> by job key"""
    outcomes: dict[str, Outcome] = {}
    waiting, running, undone = list(jobs), list[Running](), set[str]()
    made_by = {path: job for job in jobs for path in job.outputs}

    def is_ready(job: Job) -> bool:
        makers = [made_by[path].key for path in job.inputs if path in made_by]
        return all(key in outcomes and outcomes[key].state != "failed" for key in makers)

    while waiting or running:
        failed = any(outcome.state == "failed" for outcome in outcomes.values())
        for job in [] if failed else [job for job in waiting if is_ready(job)]:
            if job.key not in undone and stamps.is_done(job):
                waiting.remove(job)
                outcomes[job.key] = Outcome("done")
                continue
            undone.add(job.key)
            if not running or (
                len(running) < args.num_parallel and not job.whole_machine and not running[0].job.whole_machine
            ):
                waiting.remove(job)
                running.append(start(job, args, lock))
        if failed and not running:
            break
        for one in [one for one in running if not one.process.is_alive()]:
            running.remove(one)
            seconds = time.monotonic() - one.started
            exit_code = one.process.exitcode or 0
            outcomes[one.job.key] = Outcome("failed" if exit_code else "ran", seconds, exit_code)
            if exit_code == 0:
                stamps.put(one.job)
            report(one, number=len(outcomes), total=len(jobs), seconds=seconds)
        if running:
            time.sleep(0.05)
    return outcomes


def start(job: Job, args: Args, lock: Path) -> Running:
    log = paths.base_dir() / "output" / "logs" / f"{job.key}.log"
    cores = os.cpu_count() or 1
    if job.whole_machine:
        print(f"{job.stage} {job.name}: minutes, on all {cores} cores; see {paths.relative(log)}", flush=True)
    command = [*job.command, "--overwrite"] if args.overwrite and job.can_overwrite else job.command
    num_threads = cores if job.whole_machine else max(1, cores // args.num_parallel)
    process = warm_process.start(command, folder=paths.REPOSITORY, log=log, num_threads=num_threads, lock=lock)
    return Running(job, process, log, time.monotonic())


def report(one: Running, *, number: int, total: int, seconds: float) -> None:
    """One line a job; for a failed one also what it said last and how to run it alone."""
    print(f"[{number:>3}/{total}] {one.job.stage:<9} {one.job.name:<55} {seconds:6.1f} s", flush=True)
    if one.process.exitcode != 0:
        tail = "\n".join(one.log.read_text(errors="replace").splitlines()[-15:])
        command = f"python {' '.join(one.job.command)}"
        print(f"failed with exit code {one.process.exitcode}; {one.log} ends with\n{tail}\nrun it alone: {command}")


def print_summary(jobs: Sequence[Job], outcomes: dict[str, Outcome]) -> None:
    print(f"\n{'stage':<10}{'jobs':>5}{'done before':>13}{'ran':>5}{'failed':>8}{'not run':>9}{'seconds':>9}")
    for stage in dict.fromkeys(job.stage for job in jobs):
        found = [outcomes.get(job.key, Outcome("not run")) for job in jobs if job.stage == stage]
        count = Counter(outcome.state for outcome in found)
        seconds = sum(outcome.seconds for outcome in found)
        print(
            f"{stage:<10}{len(found):>5}{count['done']:>13}{count['ran']:>5}{count['failed']:>8}"
            f"{count['not run']:>9}{seconds:>9.0f}"
        )


if __name__ == "__main__":
    run(main, Args)
