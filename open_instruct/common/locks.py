"""File locks that are released when their process ends, even if it is killed: one writer per output.

They are advisory (flock), and also work between the nodes of a cluster if its shared file system supports them (NFS 4,
Lustre with -o flock, BeeGFS). A lock file that a killed process leaves behind has no effect.
"""

import fcntl
import hashlib
import os
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from open_instruct.common.errors import UserError

CONTENT = re.compile(rb"(process \d+ on \S*\n)?")
"""Of a lock file; empty until its process wrote its name."""


class LockHeldError(Exception):
    """Another process holds the lock; the message names it."""


@contextmanager
def hold(lock: Path, *, wait: bool) -> Iterator[int]:
    """Hold `lock` inside the block; the file is removed afterwards. Yields its descriptor.

    Raises LockHeldError where another process holds it, unless `wait`; UserError where the file is no lock file.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = open_lock(lock)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = lock.read_text().strip() if lock.exists() else ""
            if not wait:
                file.close()
                raise LockHeldError(holder or "another process") from error
            print(f"waiting for {holder or 'another process'}, which holds {lock}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        if is_open_as(lock, file.fileno()):
            break
        # The previous holder removed the file after it was opened here and before it was locked.
        file.close()
    try:
        if file.writable():
            file.truncate(0)
            file.write(f"{holder_name(os.getpid(), socket.gethostname())}\n")
            file.flush()
        yield file.fileno()
    finally:
        lock.unlink(missing_ok=True)
        file.close()


def open_lock(lock: Path) -> IO[str]:
    """Open a lock file, or make it.  Raises UserError for a file of this name that is none."""
    try:
        file = lock.open("a+")
    except PermissionError:
        if not lock.exists():
            raise
        file = lock.open()  # left behind by another user's process; a lock on it needs no right to write
    try:
        require_own_lock(lock)
    except UserError:
        file.close()
        raise
    return file


def require_own_lock(lock: Path) -> None:
    """Raises UserError where a file of a user's stands in the place of a lock file."""
    if lock.is_file() and os.access(lock, os.R_OK):
        with lock.open("rb") as file:
            if CONTENT.fullmatch(file.read(400)) is None:
                raise UserError(f"{lock} is no lock file of this project, which needs the place; move it away")


def lock_beside(output: Path) -> Path:
    """Lock file of one who writes `output`."""
    return output.with_name(f".{output.name}.lock")


@contextmanager
def hold_all(outputs: Iterable[Path], folder: Path) -> Iterator[tuple[int, ...]]:
    """Hold a lock in `folder` for each output of a job; wait for other jobs that write any of them.

    Yields the descriptors; a process that inherits them holds the locks too.
    """
    # Always in the same order: two jobs with two outputs in common would otherwise deadlock.
    files = sorted(lock_of(path, folder) for path in outputs)
    with ExitStack() as stack:
        yield tuple([stack.enter_context(hold(file, wait=True)) for file in files])


def lock_of(output: Path, folder: Path) -> Path:
    """Lock file of an output, in `folder`."""
    return folder / f"{hashlib.sha256(str(output).encode()).hexdigest()[:16]}.lock"


def is_held(lock: Path) -> bool:
    """Whether any process holds `lock`."""
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def holder_of(lock: Path) -> str:
    """Name of the process that holds `lock`, empty where none does."""
    try:
        return lock.read_text().strip() if is_held(lock) else ""
    except FileNotFoundError:
        return ""


def holder_name(pid: int, host: str) -> str:
    return f"process {pid} on {host}"


def is_open_as(path: Path, descriptor: int) -> bool:
    """Whether `path` is the file of this descriptor."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
