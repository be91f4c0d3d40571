"""The local executor: exit codes, order of jobs, and what is printed of a failure."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from fake_jobs import FAIL, WRITE, run_here

from open_instruct.study.executors.local import default_parallel
from open_instruct.study.executors.warm_process import HEAVY_MODULES
from open_instruct.study.job_cache import JobCache

SILENT = "pass"
ADD = "import pathlib, sys; pathlib.Path(sys.argv[1]).open('a').write('x')"
BLOCKED = """import pathlib, signal, sys
blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
pathlib.Path(sys.argv[1]).write_text(str(signal.SIGINT in blocked))"""
GPU = """import os, pathlib, sys, time
pathlib.Path(sys.argv[1]).write_text(os.environ["CUDA_VISIBLE_DEVICES"])
time.sleep(0.5)"""
IMPORT_WITH_A_GPU = """import importlib, sys, torch
calls = []
torch.cuda.is_available = lambda: True
torch.cuda._lazy_init = lambda: calls.append("initialised")
for name in sys.argv[1:]:
    importlib.import_module(name)
print(calls)"""
TIMES = """import pathlib, sys, time
start = time.monotonic()
time.sleep(0.2)
pathlib.Path(sys.argv[1]).write_text(f"{start} {time.monotonic()}")"""


def test_a_failure_stops_only_its_dependents_and_gives_the_exit_code(make_job, base_dir, capsys):
    bad = make_job("bad", FAIL)
    jobs = [bad, make_job("needs-bad", WRITE, bad), good := make_job("good", WRITE), make_job("last", WRITE, good)]
    with pytest.raises(SystemExit) as stopped:
        run_here(*jobs)
    assert stopped.value.code == 3
    output = capsys.readouterr().out
    assert "failed: exit code 3: error: no cat was found; put one on the mat\n" in output
    assert f"run it alone: python {base_dir}/bad.py {base_dir}/bad" in output
    assert [job.name for job in jobs if JobCache().is_done(job)] == ["good", "last"]
    assert not (base_dir / "needs-bad").exists()


def test_a_job_that_does_not_write_its_output_has_failed(make_job, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_here(make_job("silent", SILENT))
    assert stopped.value.code == 2
    assert "did not write silent" in capsys.readouterr().out


def test_finished_jobs_are_not_run_again(make_job, base_dir):
    job = make_job("once", ADD)
    run_here(job)
    run_here(job)
    assert (base_dir / "once").read_text() == "x"


def test_formatting_is_run_again_to_overwrite_for_its_command_does_not_tell_what_is_declared(make_job, base_dir):
    scored, formatted = make_job("once", ADD), replace(make_job("again", ADD), stage="format")
    for overwrite in (False, False, True):
        run_here(scored, formatted, overwrite=overwrite)
    assert ((base_dir / "once").read_text(), (base_dir / "again").read_text()) == ("x", "xx")


def test_a_job_that_takes_the_whole_machine_runs_alone(make_job, base_dir):
    jobs = [make_job(name, TIMES) for name in ("first", "second", "third")]
    run_here(jobs[0], replace(jobs[1], whole_machine=True), jobs[2], num_parallel=3)
    start, end = map(float, (base_dir / "second").read_text().split())
    for name in ("first", "third"):
        other_start, other_end = map(float, (base_dir / name).read_text().split())
        assert other_end <= start or end <= other_start


def test_jobs_in_parallel_see_one_gpu_each(make_job, base_dir, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-8a,-1")
    jobs = [make_job(name, GPU) for name in ("first", "second", "third", "fourth")]
    run_here(*jobs, num_parallel=4)
    seen = [(base_dir / job.name).read_text() for job in jobs]
    assert seen == ["3", "GPU-8a", "3", "GPU-8a"]


@pytest.mark.parametrize(("chosen", "expected"), [("0,1,2", 3), ("", os.cpu_count()), ("-1", os.cpu_count())])
def test_by_default_one_job_runs_per_gpu_or_per_core(monkeypatch, chosen, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert default_parallel() == expected


@pytest.mark.slow
def test_importing_the_heavy_libraries_does_not_initialise_cuda_which_fails_in_forks():
    done = subprocess.run([sys.executable, "-c", IMPORT_WITH_A_GPU, *HEAVY_MODULES], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_ctrl_c_reaches_no_job_not_even_in_its_first_moment(make_job, base_dir):
    run_here(make_job("job", BLOCKED))
    assert (base_dir / "job").read_text() == "True"
