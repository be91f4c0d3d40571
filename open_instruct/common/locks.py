"""Locks that end with the process that holds them, however it ends: one writer for one output.

They are advisory file locks (flock), which also hold between the nodes of a cluster where the shared file system knows
them (NFS 4, Lustre with -o flock, BeeGFS). A lock file that a killed process leaves behind is empty of meaning.
"""

import fcntl
import hashlib
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


class LockHeldError(Exception):
    """Another process holds the lock. The message says which."""


@contextmanager
def hold(lock: Path, *, wait: bool) -> Iterator[int]:
    """Hold `lock` inside the block; the file is removed afterwards.  Yields its descriptor.

    Raises LockHeldError, unless `wait`, where another process holds it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = lock.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = lock.read_text().strip() if lock.exists() else ""
            if not wait:
                file.close()
                raise LockHeldError(holder or "another process") from error
            print(f"waiting for {holder or 'another process'}, which holds {lock}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        if is_still(lock, file.fileno()):
            break
        # Its last holder removed the file between our opening and locking it.
        file.close()
    try:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield file.fileno()
    finally:
        lock.unlink(missing_ok=True)
        file.close()


@contextmanager
def hold_all(outputs: Iterable[Path], folder: Path) -> Iterator[tuple[int, ...]]:
    """Hold, in `folder`, a lock for each output of a job; waits for jobs that write any of them.

    Yields the descriptors; a process that inherits them holds the locks too.
    """
    # In one order, whoever asks: two jobs with two outputs in common cannot wait for each other.
    files = sorted(lock_of(path, folder) for path in outputs)
    with ExitStack() as stack:
        yield tuple([stack.enter_context(hold(file, wait=True)) for file in files])


def lock_of(output: Path, folder: Path) -> Path:
    """The lock file, in `folder`, of an output."""
    return folder / f"{hashlib.sha256(str(output).encode()).hexdigest()[:16]}.lock"


def is_held(lock: Path) -> bool:
    """Whether a process holds `lock` now."""
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
