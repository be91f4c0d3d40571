"""--status of running, failed and queued jobs, the time left, and what --verify invalidates."""

import json
import os
import socket
import time
from pathlib import Path

import pytest
import yaml
from toy_study import TOY

from open_instruct.common import locks, paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.sidecars import sidecar_path
from open_instruct.study import attempts, integrity, status, status_page
from open_instruct.study.executors import local
from open_instruct.study.job import Job
from open_instruct.study.job_cache import JobCache
from open_instruct.study.loading import load_study
from open_instruct.study.plan import plan


@pytest.fixture
def jobs(tmp_path):
    file = tmp_path / "toy.yaml"
    file.write_text(yaml.safe_dump(TOY))
    return plan(load_study(file))


def job_of(jobs: list[Job], stage: str) -> Job:
    return next(job for job in jobs if job.stage == stage)


def collect(jobs: list[Job]) -> status.Status:
    in_flight = local.in_flight(jobs, "toy")
    return status.collect(jobs, JobCache(), study_name="toy", in_flight=in_flight, retry="again")


def make(*outputs: Path) -> None:
    for path in outputs:
        artifact = Artifact(path, arguments={})
        if path.suffix:
            with artifact.making() as facts:
                path.write_text("made")
                facts["rows"] = 20
        else:
            with artifact.making_folder() as (folder, _):
                (folder / "model.safetensors").write_text("made")


def run(*jobs: Job) -> None:
    """Leave the outputs and cache entries of finished jobs."""
    for job in jobs:
        make(*job.outputs)
        JobCache().put(job, seconds=1.0)


def test_progress_of_training_is_its_share_of_logged_steps(jobs):
    training = job_of(jobs, "finetune")
    make(paths.train_file("socialiqa"))  # 20 rows, of which the study takes 16: two steps of eight
    training_log = training.outputs[0].with_name(f"{training.outputs[0].name}.state") / "training_log.jsonl"
    training_log.parent.mkdir(parents=True)
    training_log.write_text(json.dumps({"step": 1, "loss": 2.0}) + '\n{"step": 2, "lo')
    log = local.log_of("toy", training)
    log.parent.mkdir(parents=True)
    with locks.hold_all(training.outputs, paths.locks_folder()), attempts.recorded("toy", training, log):
        log.write_text("loading\rloaded\r")
        now = collect(jobs)
    (running,) = [one for one in now.jobs if one.state == "running"]
    assert (running.job.key, running.share_done) == (training.key, 0.5)
    assert f"{training.key} ({socket.gethostname()}): 50%, 0 s; loaded" in status_page.as_text(now)
    assert "50%" in status_page.write_page(now, "toy").read_text()


def test_time_left_extrapolates_from_finished_or_running_jobs():
    def one(state, share=0.0, seconds=None):
        return status.JobStatus(Job("predict", "x", (), ()), state, share_done=share, seconds=seconds)

    assert status_page.time_left([one("done", 1.0, 50.0), one("done", 1.0, 70.0)]) == ""
    # A mean of 60 s: half a job and two whole ones, two in parallel.
    assert (
        status_page.time_left([one("done", 1.0, 60.0), one("running", 0.5, 31.0), one("running"), one("waiting")])
        == "75 s"
    )
    # None has ended: the running one takes 100 s at its present pace.
    assert status_page.time_left([one("running", 0.25, 25.0), one("waiting")]) == "3 min"
    assert status_page.time_left([one("running"), one("waiting")]) == "?"


@pytest.fixture
def chain(jobs):
    """A conversion, the predictions with its model and their scores, all finished but the scores."""
    found = [job_of(jobs, stage) for stage in ("convert", "predict", "score")]
    make(*found[0].inputs, *found[1].inputs[1:])
    run(*found[:2])
    time.sleep(0.05)  # more than a tick of the file system's clock
    return found


def damage(file: Path) -> None:
    """Change the content, but neither size nor time."""
    times = file.stat()
    file.write_text("maed")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_verify_finds_a_damage_that_keeps_size_and_time(jobs, chain):
    damage(chain[0].outputs[0] / "model.safetensors")
    assert JobCache().is_done(chain[0])
    assert list(integrity.damaged_outputs(jobs)) == [chain[0].outputs[0]]


def test_results_older_than_a_damage_are_kept(jobs, chain):
    damage(chain[0].outputs[0] / "model.safetensors")
    run(chain[2])  # after the damage, but from predictions that are older
    assert integrity.invalidate(jobs, integrity.damaged_outputs(jobs)) == chain[:1]
    assert not sidecar_path(chain[0].outputs[0]).is_file()
    assert all(JobCache().path(job).is_file() for job in chain[1:])


def test_results_that_may_come_from_a_damage_are_invalidated(jobs, chain):
    damage(chain[0].outputs[0] / "model.safetensors")
    run(*chain[1:])
    assert integrity.invalidate(jobs, integrity.damaged_outputs(jobs)) == chain


def test_a_damaged_cache_entry_or_sidecar_is_not_done_and_no_error(jobs):
    convert = job_of(jobs, "convert")
    make(*convert.inputs)
    run(convert)
    entry, sidecar = JobCache().path(convert), sidecar_path(convert.outputs[0])
    for path in (entry, sidecar):
        whole = path.read_bytes()
        for content in (whole[: len(whole) // 2], b"\xff\xfe", b"[]"):
            path.write_bytes(content)
            assert convert.id not in collect(jobs).ids("done")
        path.write_bytes(whole)
    sidecar.write_bytes(b"{")
    assert list(integrity.damaged_outputs(jobs)) == [convert.outputs[0]]
