"""What a submission submits, and its dependencies, whichever jobs are done. A fake Slurm records the calls."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_study import TOY

from open_instruct.common.errors import UserError
from open_instruct.study.executors import slurm_client
from open_instruct.study.executors.slurm import Submitter, require_plain_paths
from open_instruct.study.executors.submissions import prepare
from open_instruct.study.job import Job
from open_instruct.study.loading import load_study
from open_instruct.study.plan import plan


@dataclass
class FakeSlurm:
    """Numbers arrays 1, 2, ... in the order in which they are submitted."""

    dependencies: list[str] = field(default_factory=list)
    """Of each array, those of all its tasks together."""

    def submit(self, script: str, options: Sequence[str]) -> str:
        self.dependencies.append(" ".join(option for option in options if option.startswith("--dependency=")))
        return str(len(self.dependencies))

    def set_dependency(self, array_id: str, indices: Iterable[int], dependency: str) -> None:
        self.dependencies[int(array_id) - 1] += f" {dependency}"

    def arrays_before(self, array_id: str) -> set[str]:
        return set(re.findall(r"(\d+)(?:_\d+)?", self.dependencies[int(array_id) - 1]))


@pytest.fixture
def fake_slurm(monkeypatch):
    def install(max_array_size: int) -> FakeSlurm:
        slurm = FakeSlurm()
        monkeypatch.setattr(slurm_client, "submit", slurm.submit)
        monkeypatch.setattr(slurm_client, "set_dependency", slurm.set_dependency)
        monkeypatch.setattr(slurm_client, "max_array_size", lambda: max_array_size)
        monkeypatch.setattr(slurm_client, "release", lambda array_id: None)
        monkeypatch.setattr(slurm_client, "tasks_in_flight", list)
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # most of the time of this test
        return slurm

    return install


@pytest.fixture
def study_and_jobs(base_dir):
    study_file = base_dir / "toy.yaml"
    study_file.write_text(yaml.safe_dump(TOY | {"steps": [0, 2, 4]}))
    study = load_study(study_file)
    return study, plan(study)


def with_dependents(jobs: Sequence[Job], ids: set[str]) -> set[str]:
    found, outputs = set(ids), set()
    for job in jobs:
        if job.id in found or outputs & set(job.inputs):
            found.add(job.id)
            outputs |= set(job.outputs)
    return found


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), max_array_size=st.sampled_from([2, 5, 1001]))
def test_unfinished_jobs_are_submitted_after_the_jobs_whose_outputs_they_read(
    study_and_jobs, fake_slurm, data, max_array_size
):
    study, jobs = study_and_jobs
    lost = data.draw(st.sets(st.sampled_from([job.id for job in jobs]), min_size=1))
    unfinished = with_dependents(jobs, lost)
    slurm = fake_slurm(max_array_size)
    done = {job.id for job in jobs} - unfinished
    result = Submitter(study, jobs, done=done, failed=set(), num_bytes={}).submit({job.id for job in jobs})
    assert result.submitted.keys() == unfinished
    assert not result.blocked
    array_of = {job_id: task.split("_")[0] for job_id, task in result.submitted.items()}
    producer = {path: job.id for job in jobs for path in job.outputs}
    for job in jobs:
        if job.id in unfinished:
            needed = {producer[path] for path in job.inputs if path in producer} & unfinished
            arrays = {array_of[job_id] for job_id in needed}
            assert arrays <= slurm.arrays_before(array_of[job.id]), job.key
            assert all(int(array) < int(array_of[job.id]) for array in arrays), job.key


def test_a_failed_job_blocks_its_dependents_only(study_and_jobs, fake_slurm):
    study, jobs = study_and_jobs
    fake_slurm(1001)
    failed = next(job for job in jobs if job.stage == "finetune")
    result = Submitter(study, jobs, done=set(), failed={failed.id}, num_bytes={}).submit({job.id for job in jobs})
    assert result.blocked.keys() == with_dependents(jobs, {failed.id})
    assert "--retry_failed" in result.blocked[failed.id]
    assert result.submitted.keys() == {job.id for job in jobs} - result.blocked.keys()


def test_a_study_is_not_submitted_from_inside_a_job_array(monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with pytest.raises(UserError, match="submit a study from a login node"):
        require_plain_paths()


def test_the_study_of_a_submission_is_not_one_whose_name_begins_alike(study_and_jobs):
    (_, jobs) = study_and_jobs
    names = ("toy", "toy-2", "toy-predict")
    assert [prepare(name, "predict", {0: jobs[0]}, {}).study_name for name in names] == list(names)
