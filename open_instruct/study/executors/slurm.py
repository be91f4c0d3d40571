"""Submit a study to Slurm: one job array for each stage, in which each task depends on just the tasks it needs.

Slurm manages dependencies and throttles; no process stays on the login node. An array is submitted on hold, its tasks
get their dependencies group by group, then it is released: so one throttle applies to the whole stage.
"""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from open_instruct.common import locks
from open_instruct.common.errors import UserError
from open_instruct.study.config import STAGES, Resources, Study
from open_instruct.study.executors import slurm_client
from open_instruct.study.executors.slurm_client import Task
from open_instruct.study.executors.submissions import (
    Submission,
    all_submissions,
    folder_of_submissions,
    mark_submitted,
    prepare,
)
from open_instruct.study.job import Job, dependencies

WARNING_SECONDS = 120
"""Between the signal to save and the time limit."""
MOST_LISTED = 200
"""Tasks of one array that a dependency lists one by one."""


@dataclass
class SubmissionResult:
    submitted: dict[str, str] = field(default_factory=dict)
    """Id of each job -> its task in Slurm."""
    blocked: dict[str, str] = field(default_factory=dict)
    """Id of each job that was not submitted -> the reason."""


def in_flight(submissions: Sequence[Submission]) -> dict[str, Task]:
    """Id of each queued or running job -> its task; without what an interrupted submission left on hold."""
    return {
        submission.ids[task.index]: task
        for submission, task in tasks_of(submissions)
        if submission.submitted is not None
    }


def tasks_of(submissions: Sequence[Submission]) -> list[tuple[Submission, Task]]:
    by_name = {submission.name: submission for submission in submissions}
    tasks = slurm_client.tasks_in_flight()
    return [
        (by_name[t.array_name], t) for t in tasks if t.array_name in by_name and t.index in by_name[t.array_name].ids
    ]


def cancel_left_over(submissions: Sequence[Submission]) -> None:
    """Cancel what an interrupted submission left on hold. The caller holds the submission lock: none is under way."""
    left_over = {task.array_id for submission, task in tasks_of(submissions) if submission.submitted is None}
    if left_over:
        print(f"cancelling job arrays of an interrupted submission: {', '.join(sorted(left_over))}")
        slurm_client.cancel(sorted(left_over))


class Submitter:
    """Submits jobs of one study, once."""

    def __init__(
        self, study: Study, jobs: Sequence[Job], *, done: Set[str], failed: Set[str], num_bytes: Mapping[str, int]
    ) -> None:
        """`done`, `failed`: ids of jobs; failed ones are not submitted. `num_bytes`: estimated size of the outputs."""
        self.study, self.jobs, self.done, self.failed, self.num_bytes = study, jobs, done, failed, num_bytes
        self.dependencies = {job_id: set(before) for job_id, before in dependencies(jobs).items()}
        # The jobs of one model have the same index in the arrays of all stages.
        self.indices: dict[str, int] = {}
        for job in jobs:
            self.indices.setdefault(job.name, len(self.indices))
        self.tasks: dict[str, str] = {}
        self.sizes: dict[str, int] = {}

    def submit(self, selected: Set[str]) -> SubmissionResult:
        """Submit `selected` jobs that are neither done nor in flight, and whose dependencies are done or will be."""
        with submission_lock():
            submissions = all_submissions()
            cancel_left_over(submissions)
            active = in_flight(submissions)
            self.tasks = {job_id: task.id for job_id, task in active.items()}
            result, by_stage, expected = SubmissionResult(), defaultdict[str, list[Job]](list), set(active)
            for job in self.jobs:
                if job.id in self.done or job.id in active or job.id not in selected:
                    continue
                missing = sorted(self.dependencies[job.id] - self.done - expected)
                if job.id in self.failed:
                    result.blocked[job.id] = "it failed; --retry_failed runs it again"
                elif missing:
                    result.blocked[job.id] = f"it needs {', '.join(missing[:3])}"
                else:
                    expected.add(job.id)
                    by_stage[job.stage].append(job)
            size = slurm_client.max_array_size()
            for stage in sorted(by_stage, key=STAGES.index):
                self.submit_stage(stage, by_stage[stage], size)
            result.submitted = {job.id: self.tasks[job.id] for jobs in by_stage.values() for job in jobs}
            return result

    def submit_stage(self, stage: str, jobs: Sequence[Job], size: int) -> None:
        """Submit the arrays of one stage, of at most `size` tasks each."""
        resources = self.study.resources.get(stage, Resources())
        chunks: dict[int, dict[int, Job]] = defaultdict(dict)
        for job in jobs:
            chunk, index = divmod(self.indices[job.name], size)
            chunks[chunk][index] = job
        if len(chunks) > 1 and len(jobs) <= size:
            chunks = {0: dict(enumerate(jobs))}
        previous: str | None = None
        for chunk in chunks.values():
            submission = prepare(self.study.name, stage, chunk, self.num_bytes)
            options = [*array_options(submission, chunk, resources), *resource_options(resources)]
            groups = self.dependency_groups(chunk)
            # Slurm throttles each array by itself: the next array of the stage starts after the end of this one.
            if previous and resources.throttle:
                groups = {",".join(filter(None, [d, f"afterany:{previous}"])): tasks for d, tasks in groups.items()}
            previous = submit_array(submission, options, groups)
            self.tasks.update({job.id: f"{previous}_{index}" for index, job in chunk.items()})
            self.sizes[previous] = len(chunk)

    def dependency_groups(self, chunk: Mapping[int, Job]) -> dict[str, list[int]]:
        """Dependency, as sbatch takes it -> indices of the tasks that have it."""
        groups: dict[str, list[int]] = defaultdict(list)
        for index, job in chunk.items():
            by_array: dict[str, set[int]] = defaultdict(set)
            for job_id in self.dependencies[job.id] - self.done:
                array_id, task = self.tasks[job_id].split("_")
                by_array[array_id].add(int(task))
            groups[",".join(self.dependency(a, tasks, index) for a, tasks in sorted(by_array.items()))].append(index)
        return groups

    def dependency(self, array_id: str, indices: set[int], own: int) -> str:
        """Dependency of the task with index `own` on tasks of one array."""
        if len(indices) == self.sizes.get(array_id) and len(indices) > 1:
            return f"afterok:{array_id}"
        if indices == {own} and self.sizes.get(array_id, 2) > 1:
            return f"aftercorr:{array_id}"
        if len(indices) > MOST_LISTED:
            # Each job checks its inputs itself.
            return f"afterany:{array_id}"
        return "afterok:" + ":".join(f"{array_id}_{index}" for index in sorted(indices))


def submission_lock() -> AbstractContextManager[int]:
    """Two concurrent submissions would not see each other's jobs."""
    return locks.hold(folder_of_submissions() / "submission.lock", wait=True)


def submit_array(submission: Submission, options: Sequence[str], groups: Mapping[str, Sequence[int]]) -> str:
    """-> the array's id in Slurm"""
    script = str(submission.folder / "job.sh")
    if len(groups) == 1:
        (dependency,) = groups
        array_id = slurm_client.submit(script, [*options, *([f"--dependency={dependency}"] if dependency else [])])
        mark_submitted(submission, array_id)
        return array_id
    array_id = slurm_client.submit(script, [*options, "--hold"])
    for dependency, indices in groups.items():
        if dependency:
            slurm_client.set_dependency(array_id, indices, dependency)
    mark_submitted(submission, array_id)
    slurm_client.release(array_id)
    return array_id


def array_options(submission: Submission, chunk: Mapping[int, Job], resources: Resources) -> list[str]:
    throttle = f"%{resources.throttle}" if resources.throttle else ""
    folder = str(submission.folder).replace("%", "%%")
    return [
        f"--job-name={submission.name}",
        f"--array={slurm_client.ranges(chunk)}{throttle}",
        f"--output={folder}/%a.log",
        "--open-mode=append",
        "--requeue",
        "--kill-on-invalid-dep=yes",
        f"--signal=B:USR1@{WARNING_SECONDS}",
    ]


def resource_options(resources: Resources) -> list[str]:
    values = {
        "gpus": resources.gpus,
        "cpus-per-task": resources.cpus,
        "mem": f"{resources.memory_gb}G" if resources.memory_gb else None,
        "time": resources.time,
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
    }
    return [f"--{name}={value}" for name, value in values.items() if value is not None] + list(resources.sbatch)


def release_held() -> int:
    """Release tasks that Slurm holds because it failed to launch them.  -> number of tasks"""
    held = [task.id for task in in_flight(all_submissions()).values() if task.reason == slurm_client.LAUNCH_FAILED]
    for task_id in held:
        slurm_client.release(task_id)
    return len(held)


def cancel(jobs: Sequence[Job], study_name: str) -> int:
    """Cancel the tasks of this study.  -> number of tasks"""
    with submission_lock():
        submissions = all_submissions()
        cancel_left_over(submissions)
        own = {submission.name for submission in submissions if submission.study_name == study_name}
        selected, active = {job.id for job in jobs}, in_flight(submissions)
        ids = [task.id for job_id, task in active.items() if job_id in selected and task.array_name in own]
        slurm_client.cancel(ids)
        return len(ids)


def require_plain_paths() -> None:
    """Raises UserError where Slurm would misread a path, or inside a job array."""
    folder = str(folder_of_submissions())
    if any(character in folder for character in "\n\\"):
        raise UserError(f"base_dir has a line break or a backslash, which Slurm misreads: {folder!r}; move it")
    if "SLURM_ARRAY_TASK_ID" in os.environ:
        raise UserError("this is inside a job of an array; submit a study from a login node")
