"""Run one job of a study: the batch script of each task of scripts/run_study.py --executor slurm.

Reads   a folder of output/slurm/ (open_instruct/study/executors/submissions.py) and $SLURM_ARRAY_TASK_ID.
Writes  the outputs of the job's stage script, its entry of the job cache in output/jobs/ and, in output/jobs/{study}/,
        the record of this attempt.

    python scripts/run_job.py output/slurm/tiny-convert-3f1a9c2b7e --index 2        # by hand, without Slurm

It checks the inputs and locks the outputs itself. At the signal before the time limit (SIGUSR1) it stops the stage,
which saves its state, and requeues the job.
"""

import os
import shutil
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
from open_instruct.common.cli import run
from open_instruct.common.errors import SAVED_AND_STOPPED, UserError
from open_instruct.common.markers import marker_beside, marker_inside
from open_instruct.common.sidecars import has_sidecar
from open_instruct.study import attempts, integrity
from open_instruct.study.executors import slurm_client
from open_instruct.study.executors.submissions import Submission, read_job
from open_instruct.study.job import Job
from open_instruct.study.job_cache import JobCache

MAX_REQUEUES = 20
MOST_SECONDS_TO_SAVE = 600.0
NEARLY_FULL_BYTES = 10 * 2**20


@dataclass(frozen=True)
class Args:
    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the job array."""
    index: int | None = None
    """Index of the task (default: $SLURM_ARRAY_TASK_ID)."""


def main(args: Args) -> None:
    index = int(os.environ.get("SLURM_ARRAY_TASK_ID", -1)) if args.index is None else args.index
    try:
        job, study_name, num_bytes = read_job(args.folder, index)
    except (KeyError, FileNotFoundError) as error:
        raise UserError(f"{args.folder} has no task {index}; give --index, one of its ids.txt") from error
    os.environ.update({name: job.variables[name] for name in ("base_dir", "data_dir")})
    with locks.hold_all(job.outputs, paths.locks_folder()) as lock_descriptors:
        if JobCache().is_done(job):
            print(f"already done: {job.key}")
            return
        with attempts.recorded(study_name, job, Submission(args.folder).log(index)) as ending:
            require_inputs(job)
            require_disk_space(num_bytes)
            started = time.monotonic()
            ending.exit_code, can_resume = run_stage(job, lock_descriptors)
            if ending.exit_code == 0:
                JobCache().put(job, seconds=round(time.monotonic() - started, 1))
                return
    if can_resume:
        requeue(job)
    if free_bytes() < NEARLY_FULL_BYTES:
        raise UserError(f"{job.key} failed and {paths.base_dir()} is full; free some of it, then --retry_failed")
    sys.exit(ending.exit_code if ending.exit_code > 0 else 128 - ending.exit_code)


def require_inputs(job: Job) -> None:
    """Raises UserError where an input is missing, unfinished or damaged: Slurm ignores dependencies on old jobs."""
    missing = [paths.relative(path) for path in job.inputs if not path.exists()]
    # Models and files of the user's own have no sidecar.
    own = [path for path in job.inputs if path.exists() and not has_sidecar(path)]
    unfinished = [paths.relative(p) for p in own if marker_beside(p).exists() or marker_inside(p).exists()]
    if missing or unfinished:
        raise UserError(
            f"{job.key}: missing inputs: {', '.join(missing + [f'{p} (unfinished)' for p in unfinished])}; "
            "see which stage makes it with --dry_run, then --retry_failed"
        )
    changed = [path for path in job.inputs if path not in own and not integrity.is_intact(path)]
    if changed:
        raise UserError(
            f"{job.key}: inputs changed since they were written: {', '.join(map(paths.relative, changed))}; "
            "--verify, then --retry_failed makes them again"
        )


def require_disk_space(num_bytes: int) -> None:
    free = free_bytes()
    if free < num_bytes:
        raise UserError(
            f"{paths.base_dir()} has {free / 1e9:.3f} GB free, this job writes about {num_bytes / 1e9:.3f} GB; "
            "free some, then --retry_failed"
        )


def free_bytes() -> int:
    return shutil.disk_usage(paths.base_dir()).free


def run_stage(job: Job, lock_descriptors: tuple[int, ...]) -> tuple[int, bool]:
    """Run the stage script.

    -> its exit code, negative: the signal that stopped it; and whether it saved its state and should be requeued
    """
    script = paths.REPOSITORY / "scripts" / "slurm_scripts" / job.script
    signals: list[int] = []
    # The stage inherits the locks: they outlive this process for as long as one of its processes writes.
    stage = subprocess.Popen(
        ["bash", str(script), *job.arguments],
        env=environment(job.variables),
        start_new_session=True,
        pass_fds=lock_descriptors,
    )

    def stop(number: int, _frame: object) -> None:
        signals.append(number)
        print(f"signal {number}: stopping the stage", flush=True)
        with suppress(ProcessLookupError):
            os.killpg(stage.pid, signal.SIGTERM)

    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, stop)
    exit_code = stage.wait()
    if is_alive(stage.pid):
        # Training saves after its shell has ended; processes of a killed shell must not write into the next run.
        if not signals:
            os.killpg(stage.pid, signal.SIGTERM)
        wait_for_group(stage.pid)
    # Slurm announced the time limit, or the stage stopped by itself. After a SIGTERM Slurm requeues or cancels.
    can_resume = signal.SIGUSR1 in signals or (exit_code == SAVED_AND_STOPPED and not signals)
    # A shell whose last command was stopped may end with 0.
    is_finished = exit_code == 0 and all(path.exists() for path in job.outputs)
    return -signals[-1] if signals and not is_finished else exit_code, can_resume


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The stage script's variables take precedence over those of the submitting shell."""
    python = str(Path(sys.executable).parent)
    return os.environ | variables | {"PATH": f"{python}:{os.environ['PATH']}"}


def wait_for_group(group: int) -> None:
    until = time.monotonic() + MOST_SECONDS_TO_SAVE
    while is_alive(group) and time.monotonic() < until:
        time.sleep(0.1)


def is_alive(group: int) -> bool:
    """Whether a process of the group is alive; zombies do not count."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = file.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(process_group) == group and state != "Z":
            return True
    return False


def requeue(job: Job) -> None:
    job_id, num_restarts = os.environ.get("SLURM_JOB_ID"), int(os.environ.get("SLURM_RESTART_COUNT", 0))
    if job_id and num_restarts < MAX_REQUEUES:
        print(f"{job.key} is requeued, to resume where it stopped", flush=True)
        slurm_client.requeue(job_id)
        # Slurm ends this process; it must not exit by itself before that.
        time.sleep(60)


if __name__ == "__main__":
    run(main, Args)
