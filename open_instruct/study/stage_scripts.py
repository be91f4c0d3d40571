"""Check a plan by the stage scripts themselves: what each job would refuse, and what it would replace.

A script that a job runs may have `check_arguments(args)`, which raises UserError, and `artifacts(args)`, the artifacts
that it writes. Both are called here without running the stage.
"""

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from open_instruct.common import ownership
from open_instruct.common.cli import parse
from open_instruct.common.errors import UserError
from open_instruct.common.olmo_package import CODE, require_installed
from open_instruct.study.job import Job
from open_instruct.study.job_cache import JobCache

CONFIGURED = ("finetune", "predict", "suite")
"""Stages whose options a study sets, and whose scripts are imported without torch."""
NATIVE = ("pretrain", "convert")
"""Stages that read or write OLMo's own format."""
MOST_SHOWN = 5


def require_runnable(jobs: Sequence[Job], cache: JobCache) -> None:
    """Raises UserError with every reason why a job would be refused, or would replace what is not its own."""
    problems = list(dict.fromkeys([*missing_package(jobs, cache), *refusals(jobs), *clashes(jobs, cache)]))
    if problems:
        more = [f"… and {len(problems) - MOST_SHOWN} more"] if len(problems) > MOST_SHOWN else []
        raise UserError("\n  ".join(["this plan cannot run:", *problems[:MOST_SHOWN], *more]))


def missing_package(jobs: Sequence[Job], cache: JobCache) -> Iterator[str]:
    for job in [job for job in jobs if job.stage in NATIVE and not cache.is_done(job)][:1]:
        try:
            require_installed(job.key, CODE)
        except UserError as error:
            yield str(error)


def refusals(jobs: Sequence[Job]) -> Iterator[str]:
    """Options that a stage refuses; one job of those with the same options is checked."""
    for job in {(job.script, job.arguments): job for job in jobs if job.stage in CONFIGURED}.values():
        script = script_of(job)
        if hasattr(script, "check_arguments"):
            try:
                script.check_arguments(arguments_of(job, script))
            except UserError as error:
                yield f"{job.key}: {error}"


def clashes(jobs: Sequence[Job], cache: JobCache) -> Iterator[str]:
    """Outputs on the disk that a job did not make, and may not replace."""
    for job in jobs:
        existing = [path for path in job.outputs if path.exists()]
        if not existing or cache.is_done(job):
            continue
        try:
            script = script_of(job)
            if hasattr(script, "artifacts") and all(path.exists() for path in job.inputs):
                for artifact in script.artifacts(arguments_of(job, script)):
                    artifact.require_no_clash()
            else:
                for path in existing:
                    ownership.require_replaceable(path)
        except UserError as error:
            yield f"{job.key}: {error}"


def script_of(job: Job) -> ModuleType:
    """The module that the job runs."""
    name = job.command[position_of_script(job)]
    return import_module(".".join(Path(name).with_suffix("").parts) if name.endswith(".py") else name)


def position_of_script(job: Job) -> int:
    """Of the script in the command, which a launcher and its options may precede."""
    is_script = [part.endswith(".py") or part.startswith("olmo_eval.") for part in job.command]
    return is_script.index(True)


def arguments_of(job: Job, script: ModuleType) -> Any:
    """The job's command line, parsed as its script parses it.  Raises UserError where the script refuses it."""
    try:
        return parse(script.Args, job.command[position_of_script(job) + 1 :])
    except SystemExit as error:
        raise UserError(f"its command line is refused: {' '.join(job.command)}") from error
