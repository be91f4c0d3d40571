"""Run one job of a study inside a Slurm job array: what each task of scripts/run_study.py --executor slurm does.

Reads   a folder of output/slurm/ (open_instruct/study/executors/submissions.py) and $SLURM_ARRAY_TASK_ID.
Writes  what the job's stage script writes, and its stamp in output/jobs/.

    python scripts/run_job.py output/slurm/tiny-convert-3f1a9c2b7e --index 2        # by hand, without Slurm

It trusts nothing: not that what the job reads is there, not that no one else is writing the same. Warned of the time
limit (SIGUSR1) it ends the stage, which saves what it has, and puts the job into the queue again.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from open_instruct.common import locks, paths
from open_instruct.common.artifacts import sidecar_path
from open_instruct.common.cli import run
from open_instruct.common.errors import SAVED_AND_STOPPED, UserError
from open_instruct.study import integrity
from open_instruct.study.executors import slurm_client
from open_instruct.study.executors.submissions import free_bytes, read_job
from open_instruct.study.job_cache import Stamps
from open_instruct.study.plan import Job

MAX_REQUEUES = 20
NEARLY_FULL_BYTES = 10 * 2**20


@dataclass(frozen=True)
class Args:
    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the job array."""
    index: int | None = None
    """Which of its tasks (default: $SLURM_ARRAY_TASK_ID)."""


def main(args: Args) -> None:
    index = int(os.environ.get("SLURM_ARRAY_TASK_ID", -1)) if args.index is None else args.index
    try:
        job, num_bytes = read_job(args.folder, index)
    except (KeyError, FileNotFoundError) as error:
        raise UserError(f"{args.folder} has no task {index}; give --index, one of its ids.txt") from error
    os.environ.update({name: job.variables[name] for name in ("base_dir", "data_dir")})
    with locks.hold_all(job.outputs, paths.locks_folder()) as held:
        if Stamps().is_done(job):
            print(f"done already: {job.key}")
            return
        require_inputs(job)
        require_room(num_bytes)
        started = time.monotonic()
        exit_code, is_to_go_on = run_stage(job, held)
        if exit_code == 0:
            Stamps().put(job, seconds=round(time.monotonic() - started, 1))
            return
    if is_to_go_on:
        queue_again(job)
    if free_bytes(paths.base_dir()) < NEARLY_FULL_BYTES:
        raise UserError(f"{job.key} failed and {paths.base_dir()} is full; free some of it, then --retry_failed")
    print(f"{job.key} failed with exit code {exit_code}", file=sys.stderr)
    sys.exit(exit_code if exit_code > 0 else 128 - exit_code)


def require_inputs(job: Job) -> None:
    """A dependency on a job that Slurm has forgotten is no dependency; so each job looks for itself."""
    missing = [paths.relative(path) for path in job.inputs if not path.exists()]
    # Checkpoints in OLMo's own format may have been put there by hand.
    folders = [path for path in job.inputs if path.is_dir() and job.stage != "convert"]
    unfinished = [paths.relative(path) for path in folders if not sidecar_path(path).is_file()]
    if missing or unfinished:
        raise UserError(
            f"{job.key} needs what is not there: {', '.join(missing + [f'{p} (unfinished)' for p in unfinished])}; "
            "see which stage makes it with --dry_run, then --retry_failed"
        )
    changed = [p for p in job.inputs if sidecar_path(p).is_file() and not integrity.is_as_written(p)]
    if changed:
        raise UserError(
            f"{job.key} reads what is not as it was written: {', '.join(map(paths.relative, changed))}; "
            "--verify, then --retry_failed makes it again"
        )


def require_room(num_bytes: int) -> None:
    free = free_bytes(paths.base_dir())
    if free < num_bytes:
        raise UserError(
            f"{paths.base_dir()} has {free / 1e9:.3f} GB free, this job writes about {num_bytes / 1e9:.3f} GB; "
            "free some, then --retry_failed"
        )


def run_stage(job: Job, held: tuple[int, ...]) -> tuple[int, bool]:
    """-> exit code of the stage script, and whether it is to go on in a later run of this job"""
    script = paths.REPOSITORY / "scripts" / "slurm_scripts" / job.script
    signals: list[int] = []
    # The stage holds the locks too: if this process is killed, they last as long as anything that it started.
    stage = subprocess.Popen(
        ["bash", str(script), *job.arguments], env=environment(job.variables), start_new_session=True, pass_fds=held
    )

    def stop(number: int, _frame: object) -> None:
        signals.append(number)
        print(f"signal {number}: asking the stage to stop", flush=True)
        with suppress(ProcessLookupError):
            os.killpg(stage.pid, signal.SIGTERM)

    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, stop)
    exit_code = stage.wait()
    if is_alive(stage.pid):
        # Training saves after its shell is gone; and what a killed shell leaves must not write into the next run.
        if not signals:
            os.killpg(stage.pid, signal.SIGTERM)
        wait_for_group(stage.pid)
    # Slurm warned of the time limit, or the stage stopped by itself. After a SIGTERM Slurm decides what becomes of it.
    return exit_code, signal.SIGUSR1 in signals or (exit_code == SAVED_AND_STOPPED and not signals)


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of the stage script, nothing silently taken from whoever submitted the study."""
    python = str(Path(sys.executable).parent)
    return os.environ | variables | {"PATH": f"{python}:{os.environ['PATH']}"}


def wait_for_group(group: int, *, seconds: float = 600.0) -> None:
    until = time.monotonic() + seconds
    while is_alive(group) and time.monotonic() < until:
        time.sleep(0.1)


def is_alive(group: int) -> bool:
    """Whether any process of the group still works; dead ones that nobody has buried do not count."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = file.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(process_group) == group and state != "Z":
            return True
    return False


def queue_again(job: Job) -> None:
    number, times = os.environ.get("SLURM_JOB_ID"), int(os.environ.get("SLURM_RESTART_COUNT", 0))
    if number and times < MAX_REQUEUES:
        print(f"{job.key} goes back into the queue, to go on where it stopped", flush=True)
        slurm_client.requeue(number)
        # Slurm ends this process now; it must not report an end of its own before.
        time.sleep(60)


if __name__ == "__main__":
    run(main, Args)
