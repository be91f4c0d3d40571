"""Run a stage script with `python` and `accelerate` replaced by programs that record their arguments."""

import os
import subprocess
from pathlib import Path

from open_instruct.common import paths
from open_instruct.study.job import Job

SCRIPTS = paths.REPOSITORY / "scripts" / "slurm_scripts"
# Each call adds its number of arguments, then the arguments, with a NUL after each.
RECORDER = """#!/bin/sh
printf '%s\\0' "$#" "$@" >> "$0.calls"
"""


def install_recorders(folder: Path) -> None:
    folder.mkdir()
    for name in ("python", "accelerate"):
        (folder / name).write_text(RECORDER)
        (folder / name).chmod(0o755)


def recorded_calls(folder: Path) -> list[list[str]]:
    """Arguments of each call since the last look."""
    calls: list[list[str]] = []
    for file in sorted(folder.glob("*.calls")):
        parts = file.read_text().split("\0")[:-1]
        while parts:
            end = int(parts[0]) + 1
            calls.append(parts[1:end])
            parts = parts[end:]
        file.unlink()
    return calls


def run_script(job: Job, recorders: Path) -> tuple[str, ...]:
    """Run the job's stage script.  -> the one Python command that it runs, without accelerate's part"""
    environment = {"PATH": f"{recorders}:{os.environ['PATH']}", **paths.environment(), **job.variables}
    subprocess.run(["bash", str(SCRIPTS / job.script), *job.arguments], env=environment, check=True, cwd="/")
    (call,) = recorded_calls(recorders)
    is_launched = call[0] == "launch"
    return tuple(call[call.index("open_instruct/finetune.py") :] if is_launched else call)


def split(command: tuple[str, ...]) -> tuple[list[str], dict[str, list[str]]]:
    """The program with its subcommands, and flag -> values; of a repeated flag the last values, as in the scripts."""
    program: list[str] = []
    options: dict[str, list[str]] = {}
    values = program
    for part in command:
        if part.startswith("--"):
            values = options[part] = []
        else:
            values.append(part)
    return program, options
