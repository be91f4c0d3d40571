"""Hand a study to Slurm: a job array for each stage, each task waiting for just those that make what it reads.

Slurm holds the dependencies and the throttle; nothing of ours stays on the login node. An array is submitted held, its
tasks are told what they wait for, group by group, then it is released: so the throttle is that of the whole stage.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from graphlib import TopologicalSorter

from open_instruct.common import locks
from open_instruct.common.errors import UserError
from open_instruct.study.config import Resources, Study
from open_instruct.study.executors import slurm_client
from open_instruct.study.executors.slurm_client import Task
from open_instruct.study.executors.submissions import (
    Submission,
    all_submissions,
    folder_of_submissions,
    mark_submitted,
    prepare,
)
from open_instruct.study.plan import Job

WARNING_SECONDS = 120
"""Before the time limit: time to save."""
MOST_NAMED = 200
"""Tasks of one array that a dependency names one by one."""


@dataclass
class Order:
    """What a call submitted and what it left."""

    submitted: dict[str, str] = field(default_factory=dict)
    """Id of each job -> its task in Slurm."""
    blocked: dict[str, str] = field(default_factory=dict)
    """Id of each job that was not submitted -> why."""


def in_flight(submissions: Sequence[Submission]) -> dict[str, Task]:
    """Id of a job -> its task that waits or runs. What a cut-short submission left held is cancelled."""
    by_name = {submission.name: submission for submission in submissions}
    found: dict[str, Task] = {}
    left_over: set[str] = set()
    for task in slurm_client.tasks_in_flight():
        submission = by_name.get(task.array_name)
        if submission is None or task.index not in submission.ids:
            continue
        if submission.submitted is None:
            left_over.add(task.array_id)
        else:
            found[submission.ids[task.index]] = task
    if left_over:
        print(f"cancelling what a submission that was cut short left: {', '.join(sorted(left_over))}")
        slurm_client.cancel(sorted(left_over))
    return found


class Submitter:
    """One call: what is known of the study, and what was submitted so far."""

    def __init__(
        self, study: Study, jobs: Sequence[Job], *, done: Set[str], failed: Set[str], num_bytes: Mapping[str, int]
    ) -> None:
        """`done`, `failed`: ids of jobs; those that ended badly are not tried again. `num_bytes`: what each writes."""
        self.study, self.jobs, self.done, self.failed, self.num_bytes = study, jobs, done, failed, num_bytes
        self.made_by = {path: job.id for job in jobs for path in job.outputs}
        # The stages of one model get the same index in their arrays.
        self.lanes: dict[str, int] = {}
        for job in jobs:
            self.lanes.setdefault(job.name, len(self.lanes))
        self.tasks: dict[str, str] = {}
        self.sizes: dict[str, int] = {}

    def submit(self, selected: Set[str]) -> Order:
        """Submit the `selected` jobs that are neither done nor in flight, and whose makers are done or will be."""
        with lock_of_submission():
            flying = in_flight(all_submissions())
            self.tasks = {job_id: task.id for job_id, task in flying.items()}
            order, wanted, going = Order(), defaultdict[str, list[Job]](list), set(flying)
            for job in self.jobs:
                if job.id in self.done or job.id in flying or job.id not in selected:
                    continue
                lacking = sorted(self.makers(job) - self.done - going)
                if job.id in self.failed:
                    order.blocked[job.id] = "it failed; --retry_failed runs it again"
                elif lacking:
                    order.blocked[job.id] = f"it needs {', '.join(lacking[:3])}"
                else:
                    going.add(job.id)
                    wanted[job.stage].append(job)
            size = slurm_client.max_array_size() if wanted else 1
            for stage in self.in_order(wanted):
                self.submit_stage(stage, wanted[stage], size)
            order.submitted = {job.id: self.tasks[job.id] for of_stage in wanted.values() for job in of_stage}
            return order

    def makers(self, job: Job) -> set[str]:
        return {self.made_by[path] for path in job.inputs if path in self.made_by}

    def in_order(self, wanted: Mapping[str, Sequence[Job]]) -> Iterable[str]:
        """Each stage after those that make what its jobs read; the first wanted job of a stage may be a late one."""
        stages = {job.id: stage for stage, of_stage in wanted.items() for job in of_stage}
        before = {
            stage: {stages[maker] for job in of_stage for maker in self.makers(job) & stages.keys()}
            for stage, of_stage in wanted.items()
        }
        return TopologicalSorter(before).static_order()

    def submit_stage(self, stage: str, jobs: Sequence[Job], size: int) -> None:
        """The arrays of one stage, of at most `size` tasks each."""
        resources = self.study.resources.get(stage, Resources())
        chunks: dict[int, dict[int, Job]] = defaultdict(dict)
        for job in jobs:
            chunk, index = divmod(self.lanes[job.name], size)
            chunks[chunk][index] = job
        if len(chunks) > 1 and len(jobs) <= size:
            chunks = {0: dict(enumerate(jobs))}
        before: str | None = None
        for chunk in chunks.values():
            submission = prepare(self.study.name, stage, chunk, self.num_bytes)
            options = [*array_options(submission, chunk, resources), *resource_options(resources)]
            groups = self.dependency_groups(chunk)
            # One throttle holds for one array: the next array of the stage begins when this one is through.
            if before and resources.throttle:
                groups = {",".join(filter(None, [d, f"afterany:{before}"])): indices for d, indices in groups.items()}
            before = submit_array(submission, options, groups)
            self.tasks.update({job.id: f"{before}_{index}" for index, job in chunk.items()})
            self.sizes[before] = len(chunk)

    def dependency_groups(self, chunk: Mapping[int, Job]) -> dict[str, list[int]]:
        """What is waited for -> indices of the tasks that wait for it."""
        groups: dict[str, list[int]] = defaultdict(list)
        for index, job in chunk.items():
            by_array: dict[str, set[int]] = defaultdict(set)
            for maker in self.makers(job) - self.done:
                array_id, at = self.tasks[maker].split("_")
                by_array[array_id].add(int(at))
            groups[",".join(self.waiting_for(a, at, index) for a, at in sorted(by_array.items()))].append(index)
        return groups

    def waiting_for(self, array_id: str, indices: set[int], own: int) -> str:
        if len(indices) == self.sizes.get(array_id) and len(indices) > 1:
            return f"afterok:{array_id}"
        if indices == {own} and self.sizes.get(array_id, 2) > 1:
            return f"aftercorr:{array_id}"
        if len(indices) > MOST_NAMED:
            # Each job looks for its inputs itself.
            return f"afterany:{array_id}"
        return "afterok:" + ":".join(f"{array_id}_{index}" for index in sorted(indices))


def lock_of_submission() -> AbstractContextManager[int]:
    """Two submissions at once would not see each other's jobs."""
    return locks.hold(folder_of_submissions() / "submission.lock", wait=True)


def submit_array(submission: Submission, options: Sequence[str], groups: Mapping[str, Sequence[int]]) -> str:
    """-> the array's number in Slurm"""
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
    """Let go what Slurm holds because it failed to launch it.  -> number of tasks"""
    held = [task.id for task in in_flight(all_submissions()).values() if task.reason == slurm_client.LAUNCH_FAILED]
    for task_id in held:
        slurm_client.release(task_id)
    return len(held)


def cancel(jobs: Sequence[Job], study_name: str) -> int:
    """Cancel what this study submitted.  -> number of tasks"""
    with lock_of_submission():
        submissions = all_submissions()
        own = {submission.name for submission in submissions if submission.name.startswith(f"{study_name}-")}
        wanted, flying = {job.id for job in jobs}, in_flight(submissions)
        ids = [task.id for job_id, task in flying.items() if job_id in wanted and task.array_name in own]
        slurm_client.cancel(ids)
        return len(ids)


def require_plain_paths() -> None:
    """Raises UserError where Slurm would misread a path."""
    folder = str(folder_of_submissions())
    if any(character in folder for character in "\n\\"):
        raise UserError(f"base_dir holds a line break or a backslash, which Slurm reads otherwise: {folder!r}; move it")
    if any(name in os.environ for name in ("SLURM_ARRAY_TASK_ID",)):
        raise UserError("this is inside a job of an array; submit a study from a login node")
