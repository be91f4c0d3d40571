"""Run a study on this machine: jobs in parallel, each a fork of a process with the heavy libraries loaded."""

import fcntl
import os
import shlex
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from open_instruct.common import locks, paths
from open_instruct.common.cli import as_typed
from open_instruct.common.errors import UserError
from open_instruct.study import attempts
from open_instruct.study.executors import warm_process
from open_instruct.study.executors.gpus import least_used, visible_gpus
from open_instruct.study.job import Job, dependencies
from open_instruct.study.job_cache import JobCache
from open_instruct.study.logs import failure_line
from open_instruct.study.status import InFlight

POLL_SECONDS = 0.5
"""Between two looks for a request to stop."""


@dataclass
class Running:
    job: Job
    process: BaseProcess
    log: Path
    started: float
    gpu: str | None
    """Chosen for this job; None where it sees all of the machine's."""
    is_told_to_stop: bool = False


class Outcome(NamedTuple):
    state: str
    """Of study/status.py: `done`, `failed`, `stopped`, or `waiting` where it was not run."""
    was_run: bool = False
    seconds: float = 0.0
    exit_code: int = 0


WAITING = Outcome("waiting")


def folder_of(study_name: str) -> Path:
    return paths.base_dir() / "output" / "jobs" / study_name


@contextmanager
def sole_run(study_name: str) -> Iterator[Path]:
    """Exclude other runs of this study, and jobs that a killed one left.  Yields the lock for the jobs to share.

    Raises UserError where the study is running.
    """
    folder = folder_of(study_name)
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


def is_active(study_name: str) -> bool:
    """Whether a run of this study is under way."""
    return locks.is_held(folder_of(study_name) / "run.lock")


def in_flight(jobs: Sequence[Job], study_name: str) -> dict[str, InFlight]:
    """The jobs that run now, by id, on any machine that sees the locks: in this study, or the same work in another."""
    folder = paths.locks_folder()
    if not folder.is_dir():
        return {}
    found = {}
    for job in jobs:
        if holder := locks.holder_of(locks.lock_of(job.outputs[0], folder)):
            files = [attempts.path_of(study_name, job), *folder.parent.glob(f"*/{job.id}.json")]
            running = [
                one for one in map(attempts.read, files) if one and locks.holder_name(one.pid, one.host) == holder
            ]
            if running:
                found[job.id] = InFlight(is_running=True, where=running[0].host)
    return found


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Inside the block SIGINT and SIGTERM are added to the yielded list; a second one ends this process at once."""
    received: list[int] = []

    def on_signal(number: int, _frame: object) -> None:
        received.append(number)
        restore()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        yield received
    finally:
        restore()


def default_parallel() -> int:
    """One job per GPU: models that fill it cannot share it. Without a GPU one per core."""
    return len(visible_gpus()) or os.cpu_count() or 1


def run_all(
    jobs: Sequence[Job], lock: Path, *, study_name: str, num_parallel: int, overwrite: bool
) -> dict[str, Outcome]:
    """Run the jobs that are not done, each after those whose outputs it reads.  -> outcomes by the job's key

    After a failure all jobs that do not depend on it are still run. After SIGINT or SIGTERM none is started, and those
    that run get SIGTERM. Each running job has a shared lock on `lock`. The cores and GPUs are divided among
    `num_parallel` jobs. `overwrite`: replace outputs that were made with other arguments.
    """
    outcomes: dict[str, Outcome] = {}
    waiting, running, undone = list(jobs), list[Running](), set[str]()
    before = dependencies(jobs)
    with stop_requests() as stops:
        while waiting or running:
            for job in list(waiting):
                found = [outcomes.get(one.key) for one in before[job.id].values()]
                if stops or any(one is not None and one.state != "done" for one in found):
                    outcomes[job.key] = WAITING
                elif None in found:
                    continue
                elif job.key not in undone and not replaces(job, overwrite) and JobCache().is_done(job):
                    outcomes[job.key] = Outcome("done")
                elif can_start(job, running, num_parallel):
                    in_use = [one.gpu for one in running]
                    gpu = None if job.whole_machine else least_used(visible_gpus(), in_use)
                    running.append(start(job, lock, study_name, num_parallel, overwrite, gpu))
                else:
                    undone.add(job.key)
                    continue
                waiting.remove(job)
            wait_for_end(running, stops)
            for one in [one for one in running if not one.process.is_alive()]:
                running.remove(one)
                outcomes[one.job.key] = finish(one, study_name)
                report(one, outcomes[one.job.key], number=len(outcomes), total=len(jobs))
    return outcomes


def replaces(job: Job, overwrite: bool) -> bool:
    """Whether a finished job is run again: datasets are declared in files, so that its command does not tell."""
    return overwrite and job.stage == "format"


def can_start(job: Job, running: Sequence[Running], num_parallel: int) -> bool:
    is_exclusive = any(one.whole_machine for one in (job, *(other.job for other in running)))
    return not running or (len(running) < num_parallel and not is_exclusive)


def wait_for_end(running: Sequence[Running], stops: Sequence[int]) -> None:
    """Wait until a job ends; pass a request to stop on to all of them, once."""
    while running:
        for one in running:
            if stops and not one.is_told_to_stop:
                one.process.terminate()
                one.is_told_to_stop = True
        if wait([one.process.sentinel for one in running], timeout=POLL_SECONDS):
            return


def log_of(study_name: str, job: Job) -> Path:
    # By id, not by key: the log of another job of this name is not this one's.
    return paths.base_dir() / "output" / "logs" / study_name / f"{job.id}.log"


def start(job: Job, lock: Path, study_name: str, num_parallel: int, overwrite: bool, gpu: str | None) -> Running:
    log = log_of(study_name, job)
    cores = os.cpu_count() or 1
    if job.whole_machine:
        print(f"{job.stage} {job.name}: runs alone, on all {cores} cores; log: {paths.relative(log)}", flush=True)
    command = [*job.command, "--overwrite"] if overwrite and job.can_overwrite else job.command
    num_threads = cores if job.whole_machine else max(1, cores // num_parallel)
    process = warm_process.start(
        job, command, study_name=study_name, log=log, num_threads=num_threads, gpu=gpu, lock=lock
    )
    return Running(job, process, log, time.monotonic(), gpu)


def finish(one: Running, study_name: str) -> Outcome:
    seconds, exit_code = time.monotonic() - one.started, one.process.exitcode or 0
    # A killed process has recorded no end.
    attempts.record_end(study_name, one.job, pid=one.process.pid or 0, exit_code=exit_code)
    return Outcome(attempts.state_after(exit_code), True, seconds, exit_code)


def report(one: Running, outcome: Outcome, *, number: int, total: int) -> None:
    """One line a job; for a failed one also why, its log, and the command to run it alone."""
    print(f"[{number:>3}/{total}] {one.job.stage:<9} {one.job.name:<55} {outcome.seconds:6.1f} s", flush=True)
    if outcome.state == "stopped":
        print(f"stopped: {attempts.end_in_words(outcome.exit_code)}; log: {one.log}", flush=True)
    if outcome.state == "failed":
        why = failure_line(one.log) or "its log does not say why"
        command = as_typed(shlex.join(["python", *one.job.command]))
        print(
            f"failed: {attempts.end_in_words(outcome.exit_code)}: {why}\nlog: {one.log}\nrun it alone: {command}",
            flush=True,
        )


def print_summary(jobs: Sequence[Job], outcomes: Mapping[str, Outcome]) -> None:
    columns = ("done before", "done now", "stopped", "failed", "waiting")
    print(f"\n{'stage':<10}{'jobs':>5}{''.join(f'{name:>13}' for name in columns)}{'seconds':>9}")
    for stage in dict.fromkeys(job.stage for job in jobs):
        found = [outcomes[job.key] for job in jobs if job.stage == stage]
        count = Counter(
            one.state if one.state != "done" else f"done {'now' if one.was_run else 'before'}" for one in found
        )
        seconds = sum(one.seconds for one in found)
        print(f"{stage:<10}{len(found):>5}{''.join(f'{count[name]:>13}' for name in columns)}{seconds:>9.0f}")
