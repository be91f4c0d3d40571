"""States of jobs on this machine: nothing run, killed, stopped, failed, done, changed since, another study's."""

import os
import runpy
import signal
from dataclasses import replace

import pytest
import yaml
from fake_jobs import (
    FAIL,
    SAVE_WHEN_STOPPED,
    WRITE,
    current_status,
    is_alive,
    kill,
    pid_when_started,
    run_here,
    start_run,
    states,
    wait_for,
)
from toy_study import SCRIPT, TOY

from open_instruct.common.errors import SAVED_AND_STOPPED
from open_instruct.study import attempts, status_page


def test_before_any_run_all_jobs_wait_and_status_writes_only_its_page(base_dir, capsys):
    study = base_dir / "toy.yaml"
    study.write_text(yaml.safe_dump(TOY))
    script = runpy.run_path(str(SCRIPT))
    script["main"](script["Args"](study=study, status=True))
    printed = capsys.readouterr().out
    assert "  1 pretrain: to be started\n" in printed
    assert "  2 convert: for pretrain\n" in printed
    rows = [line.split() for line in printed.split("\n\n")[0].splitlines()[1:]]
    assert all(row[2:8] == ["0", "0", row[1], "0", "0", "0"] for row in rows)  # the third state is waiting
    files = {path for path in base_dir.rglob("*") if path.is_file()}
    assert files == {study, base_dir / "output" / "jobs" / "toy" / "status.html"}


def test_a_killed_job_is_stopped_while_the_run_goes_on(make_job):
    job, other = make_job("training", SAVE_WHEN_STOPPED), make_job("other", WRITE)
    jobs = [job, make_job("after", WRITE, job), other]
    run = start_run(*jobs)
    pid = pid_when_started(job)
    assert states(*jobs)["training"] == "running"
    kill(pid)
    output = run.communicate(timeout=60)[0]
    assert run.returncode == SAVED_AND_STOPPED
    assert "stopped: ended by SIGKILL" in output
    assert states(*jobs) == {"training": "stopped", "after": "waiting", "other": "done"}


def test_a_job_killed_with_its_runner_is_stopped(make_job):
    job = make_job("training", SAVE_WHEN_STOPPED)
    run = start_run(job)
    pid = pid_when_started(job)
    os.killpg(run.pid, signal.SIGKILL)
    wait_for(lambda: not is_alive(pid))
    assert states(job) == {"training": "stopped"}
    assert "training: ended without a trace" in status_page.as_text(current_status(job))


def test_a_job_that_outlives_its_runner_is_running_and_then_done(make_job):
    slow = make_job("slow", f"while not __import__('os').path.exists(__file__ + '.end'): pass\n{WRITE}")
    run = start_run(slow)
    wait_for(lambda: states(slow) == {"slow": "running"})
    kill(run.pid)
    assert states(slow) == {"slow": "running"}
    (slow.outputs[0].parent / "slow.py.end").touch()
    wait_for(lambda: states(slow) != {"slow": "running"})
    assert states(slow) == {"slow": "done"}


def test_sigterm_stops_a_run_which_the_same_command_resumes(make_job):
    job, later = make_job("training", SAVE_WHEN_STOPPED), make_job("later", WRITE)
    after = make_job("after", WRITE, job)
    run = start_run(job, after)
    pid_when_started(job)
    run.terminate()
    output = run.communicate(timeout=60)[0]
    assert run.returncode == SAVED_AND_STOPPED
    assert "stopped; the same command goes on" in output
    assert states(job, after, later) == {"training": "stopped", "after": "waiting", "later": "waiting"}
    run_here(job, after)
    assert states(job, after) == {"training": "done", "after": "done"}


def test_a_failed_job_has_its_exit_code_and_its_error_though_a_warning_follows(make_job):
    job = make_job("bad", FAIL)
    jobs = [job, middle := make_job("middle", WRITE, job), make_job("last", WRITE, middle)]
    with pytest.raises(SystemExit):
        run_here(*jobs)
    now = current_status(*jobs)
    assert {one.job.name: (one.state, one.reason) for one in now.jobs} == {
        "bad": ("failed", ""),
        "middle": ("waiting", "for score.bad, which failed"),
        "last": ("waiting", "for score.bad, which failed"),
    }
    assert "score.bad: exit code 3: error: no cat was found; put one on the mat (" in status_page.as_text(now)


def test_a_job_is_stale_when_an_input_changed_or_an_output_is_gone(make_job, base_dir):
    first = make_job("first", WRITE)
    second = make_job("second", WRITE, first)
    run_here(first, second)
    assert states(first, second) == {"first": "done", "second": "done"}
    (base_dir / "first").write_text("other")
    assert states(first, second) == {"first": "stale", "second": "stale"}
    run_here(first, second)
    (base_dir / "second").unlink()
    assert states(first, second) == {"first": "done", "second": "stale"}
    assert "second: second is gone" in status_page.as_text(current_status(first, second))
    # Run again after that, it fails: that is the news.
    (base_dir / "second.py").write_text(FAIL)
    with pytest.raises(SystemExit):
        run_here(first, second)
    assert states(first, second) == {"first": "done", "second": "failed"}


def test_attempts_of_another_study_or_another_job_of_that_name_count_for_nothing(make_job):
    job = make_job("bad", FAIL)
    changed = replace(job, command=(*job.command, "--limit", "6"))
    assert changed.key == job.key
    with pytest.raises(SystemExit):
        run_here(job, study_name="other")
    assert states(job, study_name="other") == {"bad": "failed"}
    assert states(job, study_name="toy") == states(changed, study_name="other") == {"bad": "waiting"}


def test_a_job_that_was_done_through_another_study_after_it_failed_is_done(make_job):
    job = make_job("bad", FAIL)
    with pytest.raises(SystemExit):
        run_here(job, study_name="other")
    make_job("bad", WRITE)  # the same job: its command is the same
    run_here(job, study_name="toy")
    assert states(job, study_name="other") == {"bad": "done"}
    job.outputs[0].unlink()
    assert states(job, study_name="other") == {"bad": "stale"}


@pytest.mark.parametrize(
    ("exit_code", "printed", "state"),
    [
        (0, "", "stale"),
        (2, "", "failed"),
        (85, "", "stopped"),
        (137, "", "stopped"),
        (-signal.SIGTERM, "", "stopped"),
        (-signal.SIGSEGV, "", "failed"),
        (1, "Command '['python']' died with <Signals.SIGKILL: 9>.\n", "stopped"),
    ],
)
def test_the_exit_code_decides_between_stopped_and_failed(make_job, base_dir, exit_code, printed, state):
    job, log = make_job("one", WRITE), base_dir / "log"
    with attempts.recorded("toy", job, log) as ending:
        log.write_text(printed)
        ending.exit_code = exit_code
    assert states(job) == {"one": state}


@pytest.mark.parametrize("content", ["", "[]", '{"started": 1}', "{"])
def test_a_damaged_record_is_none(make_job, content):
    job = make_job("one", WRITE)
    path = attempts.path_of("toy", job)
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert states(job) == {"one": "waiting"}
