"""One job of a study: a command line of a stage script, its inputs and its outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from open_instruct.common.hashing import digest


@dataclass(frozen=True)
class Job:
    stage: str
    name: str
    """A model id, a family, or the study's name."""
    command: tuple[str, ...]
    """Script (relative to the repository) and arguments for the Python interpreter; `-m` for a module."""
    outputs: tuple[Path, ...]
    inputs: tuple[Path, ...] = ()
    script: str = ""
    """The same command as a script of scripts/slurm_scripts …"""
    variables: Mapping[str, str] = field(default_factory=dict)
    """… with these environment variables …"""
    arguments: tuple[str, ...] = ()
    """… and these arguments."""
    whole_machine: bool = False
    """Runs alone, on all cores and GPUs."""
    can_overwrite: bool = True
    """Takes --overwrite; a script that does not replaces its outputs whenever it runs."""

    @property
    def key(self) -> str:
        return f"{self.stage}.{self.name}"

    @cached_property
    def id(self) -> str:
        """The key and a hash of command and outputs: equal in two studies only where the work is the same."""
        content = [self.command, [str(path) for path in self.outputs]]
        return f"{self.key}.{digest(content)[:8]}"


def dependencies(jobs: Sequence[Job]) -> dict[str, dict[str, Job]]:
    """Id of each job -> the jobs, by id, whose outputs it reads."""
    producer = {path: job for job in jobs for path in job.outputs}
    return {job.id: {producer[path].id: producer[path] for path in job.inputs if path in producer} for job in jobs}
