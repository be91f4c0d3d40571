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
    names = sorted(hashlib.sha256(str(path).encode()).hexdigest()[:16] for path in outputs)
    with ExitStack() as stack:
        yield tuple([stack.enter_context(hold(folder / f"{name}.lock", wait=True)) for name in names])


def is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
