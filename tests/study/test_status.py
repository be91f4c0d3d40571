"""What --status says of jobs that run, failed or wait, and of how long the rest will take; what --verify gives up."""

import json
import os
import time
from pathlib import Path

import pytest
import yaml
from toy_study import TOY

from open_instruct.common import locks, paths
from open_instruct.common.artifacts import Artifact, sidecar_path
from open_instruct.study import integrity, status
from open_instruct.study.executors import local
from open_instruct.study.job_cache import Stamps
from open_instruct.study.loading import load_study
from open_instruct.study.plan import Job, plan


@pytest.fixture
def jobs(tmp_path):
    file = tmp_path / "toy.yaml"
    file.write_text(yaml.safe_dump(TOY))
    return plan(load_study(file), file)


def job_of(jobs: list[Job], stage: str) -> Job:
    return next(job for job in jobs if job.stage == stage)


def survey(jobs: list[Job]) -> status.Status:
    return status.survey(jobs, Stamps(), in_flight=local.in_flight(jobs), logs=local.logs(jobs), retry="again")


def make(path: Path, content: str = "made") -> None:
    artifact = Artifact(path, arguments={})
    with artifact.making(is_folder=not path.suffix) as facts:
        (path / "model.safetensors" if not path.suffix else path).write_text(content)
        facts["rows"] = 20


def test_a_running_training_is_as_far_as_its_log(jobs):
    training = job_of(jobs, "finetune")
    make(paths.train_file("socialiqa"))  # 20 rows, of which the study takes 16: two steps of eight
    log = training.outputs[0].with_name(f"{training.outputs[0].name}.state") / "training_log.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text(json.dumps({"step": 1, "loss": 2.0}) + '\n{"step": 2, "lo')
    said = local.log_of(training)
    said.parent.mkdir(parents=True)
    said.write_text("loading\rloaded\r")
    with locks.hold_all(training.outputs, paths.locks_folder()):
        now = survey(jobs)
    (running,) = [one for one in now.jobs if one.state == "running"]
    assert (running.job.key, running.share_done) == (training.key, 0.5)
    assert f"{training.key} (here): 50%, 0 s; loaded" in status.as_text(now)
    assert "50%" in status.write_page(now, "toy").read_text()
    # The lock is gone, the job is not done: it failed.
    assert training.id in survey(jobs).ids("failed")


def test_the_time_left_is_that_of_the_rest_at_the_present_pace():
    def one(state, share=0.0, seconds=None):
        return status.JobStatus(Job("predict", "x", (), ()), state, share_done=share, seconds=seconds)

    assert status.time_left([one("done", 1.0, 50.0), one("done", 1.0, 70.0)]) == ""
    # A mean of 60 s: half a job and two whole ones, two at once.
    assert (
        status.time_left([one("done", 1.0, 60.0), one("running", 0.5, 31.0), one("running"), one("queued")]) == "75 s"
    )
    # None has ended: the running one promises 100 s a job.
    assert status.time_left([one("running", 0.25, 25.0), one("missing")]) == "3 min"
    assert status.time_left([one("running"), one("missing")]) == "?"


def test_a_damage_is_given_up_with_what_may_have_read_it(jobs):
    made = [job_of(jobs, stage) for stage in ("convert", "predict", "score")]
    for path in (made[0].inputs[0], made[0].inputs[1], *made[1].inputs[1:]):
        make(path)
    for job in made[:2]:
        for path in job.outputs:
            make(path)
        Stamps().put(job, seconds=1.0)
    time.sleep(0.05)  # more than a tick of the file system's clock
    weights = made[0].outputs[0] / "model.safetensors"
    times = weights.stat()
    weights.write_text("maed")
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    # Scores are made of predictions, after the damage; the predictions were there before it.
    for path in made[2].outputs:
        make(path)
    Stamps().put(made[2], seconds=1.0)
    assert all(Stamps().is_done(job) for job in made)
    damaged = integrity.damaged_outputs(jobs)
    assert list(damaged) == [made[0].outputs[0]]
    assert integrity.give_up(jobs, damaged) == [made[0]]
    assert not sidecar_path(made[0].outputs[0]).is_file()

    # Again, and this time predictions are made of the damage, and scores of them.
    make(made[0].outputs[0])
    Stamps().put(made[0], seconds=1.0)
    weights.write_text("maed")
    for job in made[1:]:
        for path in job.outputs:
            make(path)
        Stamps().put(job, seconds=1.0)
    assert integrity.give_up(jobs, integrity.damaged_outputs(jobs)) == made


def test_a_damaged_stamp_or_sidecar_does_not_stop_the_status(jobs):
    convert = job_of(jobs, "convert")
    for path in (*convert.inputs, *convert.outputs):
        make(path)
    Stamps().put(convert, seconds=1.0)
    stamp, sidecar = Stamps().path(convert), sidecar_path(convert.outputs[0])
    for path in (stamp, sidecar):
        whole = path.read_bytes()
        for content in (whole[: len(whole) // 2], b"\xff\xfe", b"[]"):
            path.write_bytes(content)
            assert convert.id not in survey(jobs).ids("done")
        path.write_bytes(whole)
    sidecar.write_bytes(b"{")
    assert list(integrity.damaged_outputs(jobs)) == [convert.outputs[0]]
