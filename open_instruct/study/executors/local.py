"""Run a study on this machine: jobs in parallel, each a fork of a process with the heavy libraries loaded."""

import fcntl
import os
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from open_instruct.common import paths
from open_instruct.common.errors import USER_ERROR, UserError
from open_instruct.study.executors import warm_process
from open_instruct.study.job import Job, dependencies
from open_instruct.study.job_cache import JobCache
from open_instruct.study.progress import is_running
from open_instruct.study.status import InFlight


@dataclass
class Running:
    job: Job
    process: BaseProcess
    log: Path
    started: float


class Outcome(NamedTuple):
    state: str
    """`done` before, `ran`, `failed`, or `not run` because a job whose output it reads failed."""
    seconds: float = 0.0
    exit_code: int = 0


PENDING = Outcome("pending")


@contextmanager
def sole_run(study_name: str) -> Iterator[Path]:
    """Exclude other runs of this study, and jobs that a killed one left.  Yields the lock for the jobs to share.

    Raises UserError where the study is running.
    """
    folder = paths.base_dir() / "output" / "jobs" / study_name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "run.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"study {study_name} is already running in {paths.base_dir()}; wait for it, or end it"
            ) from error
        warm_process.wait_for_earlier(folder / "jobs.lock")
        yield folder / "jobs.lock"


def run_all(jobs: Sequence[Job], lock: Path, *, num_parallel: int, overwrite: bool) -> dict[str, Outcome]:
    """Run the jobs that are not done, each after those whose outputs it reads.  -> outcomes by the job's key

    After a failure all jobs that do not depend on it are still run. Each running job has a shared lock on `lock`. The
    cores are divided among `num_parallel` jobs. `overwrite`: replace outputs that were made with other arguments.
    """
    outcomes: dict[str, Outcome] = {}
    waiting, running, undone = list(jobs), list[Running](), set[str]()
    before = dependencies(jobs)
    while waiting or running:
        for job in list(waiting):
            states = {outcomes.get(one.key, PENDING).state for one in before[job.id].values()}
            if states & {"failed", "not run"}:
                outcomes[job.key] = Outcome("not run")
            elif "pending" in states:
                continue
            elif job.key not in undone and JobCache().is_done(job):
                outcomes[job.key] = Outcome("done")
            elif can_start(job, running, num_parallel):
                running.append(start(job, lock, num_parallel, overwrite))
            else:
                undone.add(job.key)
                continue
            waiting.remove(job)
        if running:
            wait([one.process.sentinel for one in running])
        for one in [one for one in running if not one.process.is_alive()]:
            running.remove(one)
            outcomes[one.job.key] = finish(one)
            report(one, outcomes[one.job.key], number=len(outcomes), total=len(jobs))
    return outcomes


def can_start(job: Job, running: Sequence[Running], num_parallel: int) -> bool:
    is_exclusive = any(one.whole_machine for one in (job, *(other.job for other in running)))
    return not running or (len(running) < num_parallel and not is_exclusive)


def in_flight(jobs: Sequence[Job]) -> dict[str, InFlight]:
    """The jobs that are running now, by id."""
    if not paths.locks_folder().is_dir():
        return {}
    return {job.id: InFlight(is_running=True, where="here") for job in jobs if is_running(job)}


def logs(jobs: Sequence[Job]) -> dict[str, Path]:
    return {job.id: log_of(job) for job in jobs}


def log_of(job: Job) -> Path:
    return paths.base_dir() / "output" / "logs" / f"{job.key}.log"


def start(job: Job, lock: Path, num_parallel: int, overwrite: bool) -> Running:
    log = log_of(job)
    cores = os.cpu_count() or 1
    if job.whole_machine:
        print(f"{job.stage} {job.name}: takes minutes on all {cores} cores; log: {paths.relative(log)}", flush=True)
    command = [*job.command, "--overwrite"] if overwrite and job.can_overwrite else job.command
    num_threads = cores if job.whole_machine else max(1, cores // num_parallel)
    process = warm_process.start(command, log=log, num_threads=num_threads, lock=lock, outputs=job.outputs)
    return Running(job, process, log, time.monotonic())


def finish(one: Running) -> Outcome:
    seconds, exit_code = time.monotonic() - one.started, one.process.exitcode or 0
    if exit_code == 0:
        try:
            JobCache().put(one.job, seconds=round(seconds, 1))
        except UserError as error:
            with one.log.open("a") as log:
                log.write(f"error: {error}\n")
            exit_code = USER_ERROR
    return Outcome("failed" if exit_code else "ran", seconds, exit_code)


def report(one: Running, outcome: Outcome, *, number: int, total: int) -> None:
    """One line a job; for a failed one also the end of its log and the command to run it alone."""
    print(f"[{number:>3}/{total}] {one.job.stage:<9} {one.job.name:<55} {outcome.seconds:6.1f} s", flush=True)
    if outcome.state == "failed":
        tail = "\n".join(one.log.read_text(errors="replace").splitlines()[-15:])
        command = shlex.join(["python", *one.job.command])
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
