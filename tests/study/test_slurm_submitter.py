"""What a call submits, and after what, whatever was done before; Slurm is a list of what was asked of it."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_study import TOY

from open_instruct.study.executors import slurm_client
from open_instruct.study.executors.slurm import Submitter
from open_instruct.study.loading import load_study
from open_instruct.study.plan import Job, plan


@dataclass
class Asked:
    """Arrays get the numbers 1, 2, ... in the order in which they are submitted."""

    arrays: list[str] = field(default_factory=list)
    """Whatever each array waits for, all its tasks together."""

    def submit(self, script: str, options: Sequence[str]) -> str:
        self.arrays.append(" ".join(option for option in options if option.startswith("--dependency=")))
        return str(len(self.arrays))

    def set_dependency(self, array_id: str, indices: Iterable[int], dependency: str) -> None:
        self.arrays[int(array_id) - 1] += f" {dependency}"

    def waits_for(self, array_id: str) -> set[str]:
        return set(re.findall(r"(\d+)(?:_\d+)?", self.arrays[int(array_id) - 1]))


@pytest.fixture
def toy_jobs(base_dir):
    study_file = base_dir / "toy.yaml"
    study_file.write_text(yaml.safe_dump(TOY | {"steps": [0, 2, 4]}))
    study = load_study(study_file)
    return study, plan(study, study_file)


def with_descendants(jobs: Sequence[Job], ids: set[str]) -> set[str]:
    found, made = set(ids), set()
    for job in jobs:
        if job.id in found or made & set(job.inputs):
            found.add(job.id)
            made |= set(job.outputs)
    return found


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), max_array_size=st.sampled_from([2, 5, 1001]))
def test_what_is_lacking_is_submitted_after_what_it_reads(toy_jobs, monkeypatch, data, max_array_size):
    study, jobs = toy_jobs
    lost = data.draw(st.sets(st.sampled_from([job.id for job in jobs]), min_size=1))
    lacking = with_descendants(jobs, lost)
    asked = Asked()
    monkeypatch.setattr(slurm_client, "submit", asked.submit)
    monkeypatch.setattr(slurm_client, "set_dependency", asked.set_dependency)
    monkeypatch.setattr(slurm_client, "max_array_size", lambda: max_array_size)
    monkeypatch.setattr(slurm_client, "release", lambda array_id: None)
    monkeypatch.setattr(slurm_client, "tasks_in_flight", list)

    done = {job.id for job in jobs} - lacking
    order = Submitter(study, jobs, done=done, failed=set(), num_bytes={}).submit({job.id for job in jobs})
    assert order.submitted.keys() == lacking
    assert not order.blocked
    array_of = {job_id: task.split("_")[0] for job_id, task in order.submitted.items()}
    maker = {path: job.id for job in jobs for path in job.outputs}
    for job in jobs:
        if job.id in lacking:
            makers = {array_of[maker[path]] for path in job.inputs if path in maker and maker[path] in lacking}
            assert makers <= asked.waits_for(array_of[job.id]), job.key
            assert all(int(array) < int(array_of[job.id]) for array in makers), job.key
