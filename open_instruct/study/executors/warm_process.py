"""Run a Python command line in a fork of a process that has the heavy libraries loaded.

A stage of a small study computes for seconds, and importing torch and transformers takes as long. The standard
library's fork server imports them once. Every job is a fork of it, with arguments, log and exit code of its own, as if
started from a shell.
"""

import fcntl
import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path

from open_instruct.common import locks, paths
from open_instruct.common.errors import USER_ERROR, UserError
from open_instruct.study import attempts
from open_instruct.study.job import Job
from open_instruct.study.job_cache import JobCache

HEAVY_MODULES = ["torch", "accelerate", "datasets", "scipy.stats", "pandas", "transformers.models.auto.modeling_auto"]
# transformers imports a model's module, and with it half of itself, only when such a model is created.
HEAVY_MODULES += ["transformers.models.olmo.modeling_olmo", "olmo.model"]


def start(
    job: Job,
    command: Sequence[str],
    *,
    study_name: str,
    log: Path,
    num_threads: int,
    gpu: str | None,
    lock: Path,
) -> BaseProcess:
    """Start `python {command}`, the job's with options, in the repository, with its output in `log`.

    `gpu`: the only one that it sees; None: all.

    While it runs it holds a shared lock on `lock`, and an exclusive one for each of its outputs. It records its attempt
    and, when it is done, itself in the job cache: also after `kill -9` of the process that started it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY_MODULES)
    # Set before the fork server starts: the libraries read them once.
    os.environ["OMP_NUM_THREADS"] = str(os.cpu_count() or 1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["TQDM_DISABLE"] = "1"  # the libraries' progress bars would fill the log
    # A library that looks for GPUs while it is imported would initialise CUDA, which then fails in every fork.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = paths.environment() | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
    values = (job, list(command), study_name, log, num_threads, lock, environment)
    process = context.Process(target=work, args=values)
    # Ctrl-C reaches every process of a terminal; the runner passes it on as SIGTERM, at which training saves its state.
    # The fork server and its forks inherit what is blocked here, so that none sees Ctrl-C even in its first moment.
    resource_tracker.ensure_running()  # it would unblock SIGINT if the fork server started it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def work(
    job: Job,
    command: list[str],
    study_name: str,
    log: Path,
    num_threads: int,
    lock: Path,
    environment: Mapping[str, str],
) -> None:
    shared = lock.open("w")
    fcntl.flock(shared, fcntl.LOCK_SH)
    os.chdir(paths.REPOSITORY)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment, OMP_NUM_THREADS=str(num_threads))
    # A preloaded torch has read the variable already.
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(num_threads)
    try:
        with locks.hold_all(job.outputs, paths.locks_folder()), attempts.recorded(study_name, job, log):
            started = time.monotonic()
            run(command)
            JobCache().put(job, seconds=round(time.monotonic() - started, 1))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)


def run(command: list[str]) -> None:
    """Raises SystemExit with the command's exit code where that is not 0."""
    try:
        if command[0] == "-m":
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            sys.path.insert(0, str(Path(command[0]).resolve().parent))
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as error:
        if error.code:
            raise


def wait_for_earlier(lock: Path) -> None:
    """Wait until no job holds `lock`: jobs of a killed run may still be running."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
