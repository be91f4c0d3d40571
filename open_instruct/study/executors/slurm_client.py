"""Calls of sbatch, squeue, scontrol and scancel. sacct is not used: many clusters have none."""

import getpass
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from open_instruct.common.errors import UserError

LAUNCH_FAILED = "launch failed requeued held"
"""Reason of a job that stays queued, after a failure of a node or the controller, until it is released."""
DEFAULT_MAX_ARRAY = 1001
"""Slurm's own default: array indices are below it."""


@dataclass(frozen=True)
class Task:
    """One queued or running task of a job array."""

    array_name: str
    array_id: str
    index: int
    state: str
    """`PENDING`, `RUNNING`, `COMPLETING` and so on."""
    reason: str
    """Why it is queued: `Dependency`, `JobHeldUser`, `Resources` …; empty until the scheduler has looked at it."""

    @property
    def id(self) -> str:
        return f"{self.array_id}_{self.index}"

    @property
    def is_running(self) -> bool:
        return self.state != "PENDING"


def call(*command: str) -> str:
    """Run a Slurm command.  -> its output.  Raises UserError where it is not installed or fails."""
    if shutil.which(command[0]) is None:
        raise UserError(
            f"{command[0]} not found: Slurm is not installed here; run on a login node, or --executor local"
        )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{command[0]} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def tasks_in_flight() -> list[Task]:
    """All queued or running tasks of the user's job arrays."""
    lines = call("squeue", "--noheader", "--array", "--user", getpass.getuser(), "--format=%j|%F|%K|%T|%r").splitlines()
    found = [line.rsplit("|", 4) for line in lines]
    return [
        Task(name, array_id, int(index), state, "" if reason == "None" else reason)
        for name, array_id, index, state, reason in (parts for parts in found if len(parts) == 5)
        if index.isdigit()
    ]


def max_array_size() -> int:
    match = re.search(r"MaxArraySize\s*=\s*(\d+)", call("scontrol", "show", "config"))
    return int(match[1]) if match else DEFAULT_MAX_ARRAY


def submit(script: str, options: Sequence[str]) -> str:
    """Submit a job array.  -> its id"""
    return call("sbatch", "--parsable", *options, script).strip().split(";")[0]


def set_dependency(array_id: str, indices: Iterable[int], dependency: str) -> None:
    """Set the dependency of some tasks of an array that is on hold."""
    call("scontrol", "update", f"JobId={array_id}_[{ranges(indices)}]", f"Dependency={dependency}")


def release(array_id: str) -> None:
    call("scontrol", "release", array_id)


def requeue(job_id: str) -> None:
    call("scontrol", "requeue", job_id)


def cancel(ids: Sequence[str]) -> None:
    for first in range(0, len(ids), 500):
        call("scancel", *ids[first : first + 500])


def ranges(indices: Iterable[int]) -> str:
    """0, 1, 2, 5 -> `0-2,5`"""
    parts: list[list[int]] = []
    for index in sorted(set(indices)):
        if parts and index == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], index]
        else:
            parts.append([index])
    return ",".join("-".join(map(str, part)) for part in parts)
