"""Run a study on this machine: as many jobs at once as there are cores, each a fork of a warm process."""

import fcntl
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.study.executors import warm_process
from open_instruct.study.job_cache import Stamps
from open_instruct.study.plan import Job
from open_instruct.study.progress import is_running
from open_instruct.study.status import InFlight


@dataclass(frozen=True)
class Settings:
    num_parallel: int
    """Jobs at once; the cores are shared out among them."""
    overwrite: bool
    """Make again what other arguments made."""
    lock: Path
    """Held, shared, by every job while it runs."""


@dataclass
class Running:
    job: Job
    process: BaseProcess
    log: Path
    started: float


class Outcome(NamedTuple):
    state: str
    """`done` before, `ran`, `failed`, or `not run` because what it needs failed."""
    seconds: float = 0.0
    exit_code: int = 0


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


def run_all(jobs: Sequence[Job], settings: Settings) -> dict[str, Outcome]:
    """Run what is not done, each job once all it reads is there; a failed one stops only what needs it.  -> by key"""
    outcomes: dict[str, Outcome] = {}
    waiting, running, undone = list(jobs), list[Running](), set[str]()
    made_by = {path: job.key for job in jobs for path in job.outputs}
    makers = {job.key: {made_by[path] for path in job.inputs if path in made_by} for job in jobs}
    while waiting or running:
        for job in list(waiting):
            before = [outcomes[key].state for key in makers[job.key] if key in outcomes]
            if "failed" in before or "not run" in before:
                waiting.remove(job)
                outcomes[job.key] = Outcome("not run")
            elif len(before) < len(makers[job.key]):
                continue
            elif job.key not in undone and Stamps().is_done(job):
                waiting.remove(job)
                outcomes[job.key] = Outcome("done")
            else:
                undone.add(job.key)
                if not running or (
                    len(running) < settings.num_parallel and not job.whole_machine and not running[0].job.whole_machine
                ):
                    waiting.remove(job)
                    running.append(start(job, settings))
        for one in [one for one in running if not one.process.is_alive()]:
            running.remove(one)
            outcomes[one.job.key] = finish(one)
            report(one, outcomes[one.job.key], number=len(outcomes), total=len(jobs))
        if running:
            time.sleep(0.05)
    return outcomes


def in_flight(jobs: Sequence[Job]) -> dict[str, InFlight]:
    """Id of each job that some process on this machine is doing now."""
    if not paths.locks_folder().is_dir():
        return {}
    return {job.id: InFlight(is_running=True, where="here") for job in jobs if is_running(job)}


def logs(jobs: Sequence[Job]) -> dict[str, Path]:
    return {job.id: log_of(job) for job in jobs}


def log_of(job: Job) -> Path:
    return paths.base_dir() / "output" / "logs" / f"{job.key}.log"


def start(job: Job, settings: Settings) -> Running:
    log = log_of(job)
    cores = os.cpu_count() or 1
    if job.whole_machine:
        print(f"{job.stage} {job.name}: minutes, on all {cores} cores; see {paths.relative(log)}", flush=True)
    command = [*job.command, "--overwrite"] if settings.overwrite and job.can_overwrite else job.command
    num_threads = cores if job.whole_machine else max(1, cores // settings.num_parallel)
    process = warm_process.start(
        command, folder=paths.REPOSITORY, log=log, num_threads=num_threads, lock=settings.lock, outputs=job.outputs
    )
    return Running(job, process, log, time.monotonic())


def finish(one: Running) -> Outcome:
    seconds, exit_code = time.monotonic() - one.started, one.process.exitcode or 0
    if exit_code == 0:
        try:
            Stamps().put(one.job, seconds=round(seconds, 1))
        except UserError as error:
            with one.log.open("a") as log:
                log.write(f"error: {error}\n")
            exit_code = 2
    return Outcome("failed" if exit_code else "ran", seconds, exit_code)


def report(one: Running, outcome: Outcome, *, number: int, total: int) -> None:
    """One line a job; for a failed one also what it said last and how to run it alone."""
    print(f"[{number:>3}/{total}] {one.job.stage:<9} {one.job.name:<55} {outcome.seconds:6.1f} s", flush=True)
    if outcome.state == "failed":
        tail = "\n".join(one.log.read_text(errors="replace").splitlines()[-15:])
        command = f"python {' '.join(one.job.command)}"
        print(f"failed with exit code {outcome.exit_code}; {one.log} ends with\n{tail}\nrun it alone: {command}")


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
