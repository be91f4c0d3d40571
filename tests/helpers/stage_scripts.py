"""Run a stage script on a PATH where `python` and `accelerate` only record their command lines."""

import json
import os
import subprocess

from open_instruct.common import paths
from open_instruct.study.plan import Job

SCRIPTS = paths.REPOSITORY / "scripts" / "slurm_scripts"


def run_script(job: Job, echo) -> list[list[str]]:
    """The command lines that the job's stage script runs."""
    environment = {"PATH": f"{echo}:{os.environ['PATH']}", **paths.environment(), **job.variables}
    subprocess.run(["bash", str(SCRIPTS / job.script), *job.arguments], env=environment, check=True, cwd="/")
    logs = sorted(echo.glob("*.log"))
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    for log in logs:
        log.unlink()
    return lines


def settings(command: list[str]) -> dict[str, list[str]]:
    """Flag -> values; the last of a repeated flag counts, as in the scripts."""
    found: dict[str, list[str]] = {}
    for part in command:
        if part.startswith("--"):
            found[part] = []
        elif found:
            found[list(found)[-1]].append(part)
        # A flag that comes again moves to the end.
        if part.startswith("--"):
            found[part] = found.pop(part)
    return found
