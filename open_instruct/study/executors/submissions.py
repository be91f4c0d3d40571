"""Submissions on the disk: one folder for each job array, which its tasks read.

    output/slurm/{study}-{stage}-{key}/
        job.sh          the batch script: the #SBATCH lines of the stage script, then scripts/run_job.py
        jobs.jsonl      one line a task: command, inputs and outputs
        ids.txt         one line a task: index and id of the job
        submitted.json  the array's id in Slurm; missing where the submission was interrupted
        {index}.log     log of a task, all its attempts
The key is a hash of the jobs, and the folder's name is that of the array in Slurm: so squeue tells which jobs are in
flight.
"""

import json
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from open_instruct.common import paths
from open_instruct.common.hashing import digest
from open_instruct.common.json_files import atomic_write, read_json, write_json
from open_instruct.study.job import Job

RUN_JOB = paths.REPOSITORY / "scripts" / "run_job.py"


@dataclass(frozen=True)
class Submission:
    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def study_name(self) -> str:
        return self.name.rsplit("-", 2)[0]

    @cached_property
    def ids(self) -> dict[int, str]:
        """Index in the array -> id of the job."""
        path = self.folder / "ids.txt"
        lines = path.read_text().splitlines() if path.is_file() else []
        return {int(index): job_id for index, job_id in (line.split(maxsplit=1) for line in lines)}

    @cached_property
    def submitted(self) -> dict | None:
        """`array_id` and `time`; None where the submission was interrupted."""
        path = self.folder / "submitted.json"
        return read_json(path) if path.is_file() else None

    def log(self, index: int) -> Path:
        return self.folder / f"{index}.log"


def folder_of_submissions() -> Path:
    return paths.base_dir() / "output" / "slurm"


def all_submissions() -> list[Submission]:
    """All submissions in order of time; interrupted ones come first."""
    found = [Submission(path.parent) for path in folder_of_submissions().glob("*/ids.txt")]
    return sorted(found, key=lambda one: (one.submitted or {}).get("time", 0.0))


def prepare(study_name: str, stage: str, jobs: Mapping[int, Job], num_bytes: Mapping[str, int]) -> Submission:
    """Write the folder of a job array. `jobs` are by index, `num_bytes` (size of the outputs) by id of the job."""
    key = digest([[index, job.id, str(paths.base_dir())] for index, job in sorted(jobs.items())])[:10]
    submission = Submission(folder_of_submissions() / f"{study_name}-{stage}-{key}")
    submission.folder.mkdir(parents=True, exist_ok=True)
    (submission.folder / "submitted.json").unlink(missing_ok=True)
    with atomic_write(submission.folder / "jobs.jsonl") as file:
        for index, job in sorted(jobs.items()):
            file.write(json.dumps(as_json(index, job, study_name, num_bytes.get(job.id, 0))) + "\n")
    stage_script = paths.REPOSITORY / "scripts" / "slurm_scripts" / next(iter(jobs.values())).script
    with atomic_write(submission.folder / "job.sh") as file:
        file.write(batch_script(stage_script, submission.folder))
    with atomic_write(submission.folder / "ids.txt") as file:
        file.writelines(f"{index} {job.id}\n" for index, job in sorted(jobs.items()))
    return submission


def mark_submitted(submission: Submission, array_id: str) -> None:
    write_json(submission.folder / "submitted.json", {"array_id": array_id, "time": time.time()})


def batch_script(stage_script: Path, folder: Path) -> str:
    """The #SBATCH lines of the stage script, then the command that runs a task."""
    options = [line for line in stage_script.read_text().splitlines() if line.startswith("#SBATCH")]
    command = shlex.join([sys.executable, str(RUN_JOB), str(folder)])
    return "\n".join(["#!/bin/bash", *options, f"exec {command}", ""])


def as_json(index: int, job: Job, study_name: str, num_bytes: int) -> dict:
    return {
        "index": index,
        "id": job.id,
        "study": study_name,
        "stage": job.stage,
        "name": job.name,
        "command": job.command,
        "script": job.script,
        "variables": dict(job.variables) | paths.environment() | {"repository": str(paths.REPOSITORY)},
        "arguments": job.arguments,
        "inputs": [str(path) for path in job.inputs],
        "outputs": [str(path) for path in job.outputs],
        "num_bytes": num_bytes,
    }


def read_job(folder: Path, index: int) -> tuple[Job, str, int]:
    """The job of one task, its study, and the bytes of its outputs.

    Raises KeyError where the array has no such task.
    """
    with (folder / "jobs.jsonl").open() as lines:
        for line in lines:
            if line.startswith(f'{{"index": {index},'):
                found = json.loads(line)
                values = {name: found[name] for name in ("stage", "name", "script", "variables")}
                values |= {name: tuple(found[name]) for name in ("command", "arguments")}
                values |= {name: tuple(map(Path, found[name])) for name in ("inputs", "outputs")}
                return Job(**values), found["study"], found["num_bytes"]
    raise KeyError(index)
