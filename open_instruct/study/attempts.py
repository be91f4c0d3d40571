"""Attempts: when and where a study last started a job, and how that ended.

Both executors write one file for each job, output/jobs/{study}/{job id}.json. The id has a hash of the job's command
and outputs: an attempt of another study, or of another job of the same name, is never taken for this one's.
"""

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from open_instruct.common import paths
from open_instruct.common.errors import SAVED_AND_STOPPED, USER_ERROR, UserError
from open_instruct.common.json_files import read_json, write_json
from open_instruct.study.job import Job
from open_instruct.study.logs import signal_of_launched

CRASHES = {"SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP"}
"""Signals of the process's own making: it would crash again."""


@dataclass(frozen=True)
class Attempt:
    started: float
    """Seconds since 1970, as `ended`."""
    host: str
    pid: int
    log: str
    """Relative to base_dir."""
    log_offset: int = 0
    """Bytes of earlier attempts in the log."""
    ended: float | None = None
    """None while it runs, and where nothing was left to record the end: kill -9, a node that went down."""
    exit_code: int | None = None
    """Negative: the signal that ended it."""

    @property
    def log_path(self) -> Path:
        return paths.base_dir() / self.log


@dataclass
class Ending:
    exit_code: int = 0


def state_after(exit_code: int | None) -> str:
    """`done`, `stopped` (it goes on when it is run again) or `failed`; of an attempt without an end `stopped`."""
    if exit_code is None or exit_code == SAVED_AND_STOPPED or signal_name(exit_code) not in {"", *CRASHES}:
        return "stopped"
    return "failed" if exit_code else "done"


def end_in_words(exit_code: int | None) -> str:
    if exit_code is None:
        return "ended without a trace: kill -9, or its machine went down"
    if exit_code == SAVED_AND_STOPPED:
        return "stopped by a signal, its state is saved"
    return f"ended by {name}" if (name := signal_name(exit_code)) else f"exit code {exit_code}"


def signal_name(exit_code: int) -> str:
    """The signal that ended a process, empty where none did; a shell exits with 128 + the signal's number."""
    number = -exit_code if exit_code < 0 else exit_code - 128
    return signal.Signals(number).name if number in list(signal.Signals) else ""


def path_of(study_name: str, job: Job) -> Path:
    return paths.base_dir() / "output" / "jobs" / study_name / f"{job.id}.json"


def read(path: Path) -> Attempt | None:
    """None where there is no file or it is damaged."""
    # A string, and no exception: a large study looks for ten thousand files that are not there.
    if not os.path.isfile(str(path)):
        return None
    try:
        return Attempt(**read_json(path))
    except (UserError, TypeError):
        return None


@contextmanager
def recorded(study_name: str, job: Job, log: Path) -> Iterator[Ending]:
    """Record an attempt of this process: its start, then the exit code that the block sets or raises."""
    path, ending = path_of(study_name, job), Ending()
    offset = log.stat().st_size if log.is_file() else 0
    attempt = Attempt(time.time(), socket.gethostname(), os.getpid(), paths.relative(log), offset)
    write_json(path, asdict(attempt))
    try:
        yield ending
    except BaseException as error:
        ending.exit_code = exit_code_of(error)
        raise
    finally:
        number = signal_of_launched(log, offset=offset) if ending.exit_code > 0 else None
        # On a full disk: the block's own error says so, and the attempt counts as stopped.
        with suppress(OSError):
            write_end(path, attempt, -number if number else ending.exit_code)


def record_end(study_name: str, job: Job, *, pid: int, exit_code: int) -> None:
    """Record the end of an attempt by another process of this machine, unless it did so itself."""
    path = path_of(study_name, job)
    attempt = read(path)
    if attempt is not None and attempt.pid == pid and attempt.ended is None:
        write_end(path, attempt, exit_code)


def write_end(path: Path, attempt: Attempt, exit_code: int) -> None:
    write_json(path, asdict(replace(attempt, ended=time.time(), exit_code=exit_code)))


def exit_code_of(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, KeyboardInterrupt):
        return -signal.SIGINT
    return USER_ERROR if isinstance(error, UserError) else 1
