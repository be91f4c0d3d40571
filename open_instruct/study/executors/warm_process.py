"""Run a Python command line in a fork of a process that has the heavy libraries loaded.

A stage of a small study computes for seconds, and importing torch and transformers takes as long. The standard
library's fork server imports them once. Every job is a fork of it, with arguments, log and exit code of its own, as if
started from a shell.
"""

import fcntl
import multiprocessing
import os
import runpy
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from open_instruct.common import locks, paths

HEAVY_MODULES = ["torch", "accelerate", "datasets", "scipy.stats", "pandas", "transformers.models.auto.modeling_auto"]
# transformers imports a model's module, and with it half of itself, only when such a model is created.
HEAVY_MODULES += ["transformers.models.olmo.modeling_olmo", "olmo.model"]


def start(command: Sequence[str], *, log: Path, num_threads: int, lock: Path, outputs: Sequence[Path]) -> BaseProcess:
    """Start `python {command}` in the repository, with its output in `log`.

    While it runs it holds a shared lock on `lock`, and an exclusive one for each of its outputs.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY_MODULES)
    # Set before the fork server starts: the libraries read it once.
    os.environ["OMP_NUM_THREADS"] = str(os.cpu_count() or 1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    log.parent.mkdir(parents=True, exist_ok=True)
    process = context.Process(target=work, args=(list(command), log, num_threads, lock, list(outputs)))
    process.start()
    return process


def work(command: list[str], log: Path, num_threads: int, lock: Path, outputs: list[Path]) -> None:
    shared = lock.open("w")
    fcntl.flock(shared, fcntl.LOCK_SH)
    os.chdir(paths.REPOSITORY)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    # A preloaded torch has read the variable already.
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(num_threads)
    with locks.hold_all(outputs, paths.locks_folder()):
        if command[0] == "-m":
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            sys.path.insert(0, str(Path(command[0]).resolve().parent))
            runpy.run_path(command[0], run_name="__main__")


def wait_for_earlier(lock: Path) -> None:
    """Wait until no job holds `lock`: jobs of a killed run may still be running."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
