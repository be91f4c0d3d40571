"""The local executor: exit codes, order of jobs, and what is printed of a failure."""

import runpy
from dataclasses import replace

import pytest
from toy_study import SCRIPT

from open_instruct.study.config import Study
from open_instruct.study.executors import warm_process
from open_instruct.study.job import Job
from open_instruct.study.job_cache import JobCache

WRITE = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('made')"
FAIL = "import sys; print('half done'); print('the reason'); sys.exit(3)"
SILENT = "pass"
TIMES = """import pathlib, sys, time
start = time.monotonic()
time.sleep(0.2)
pathlib.Path(sys.argv[1]).write_text(f"{start} {time.monotonic()}")"""


@pytest.fixture
def make_job(base_dir, monkeypatch):
    monkeypatch.setattr(warm_process, "HEAVY_MODULES", [])
    for name in ("OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM"):  # set by the executor, restored after the test
        monkeypatch.setenv(name, "1")

    def make(name: str, code: str, *inputs: Job) -> Job:
        script, output = base_dir / f"{name}.py", base_dir / name
        script.write_text(code)
        return Job("score", name, (str(script), str(output)), (output,), tuple(job.outputs[0] for job in inputs))

    return make


def run_here(*jobs: Job, num_parallel: int = 2) -> None:
    script = runpy.run_path(str(SCRIPT))
    args = script["Args"](study=SCRIPT, num_parallel=num_parallel)
    script["run_here"](args, Study("toy", train_sets={}, evaluation={}), jobs)


def test_a_failure_stops_only_its_dependents_and_gives_the_exit_code(make_job, base_dir, capsys):
    bad = make_job("bad", FAIL)
    jobs = [bad, make_job("needs-bad", WRITE, bad), good := make_job("good", WRITE), make_job("last", WRITE, good)]
    with pytest.raises(SystemExit) as stopped:
        run_here(*jobs)
    assert stopped.value.code == 3
    output = capsys.readouterr().out
    assert "failed: exit code 3: the reason\n" in output
    assert f"run it alone: python {base_dir}/bad.py {base_dir}/bad" in output
    assert [job.name for job in jobs if JobCache().is_done(job)] == ["good", "last"]
    assert not (base_dir / "needs-bad").exists()


def test_a_job_that_does_not_write_its_output_has_failed(make_job, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_here(make_job("silent", SILENT))
    assert stopped.value.code == 2
    assert "did not write silent" in capsys.readouterr().out


def test_finished_jobs_are_not_run_again(make_job, base_dir):
    job = make_job("once", "import pathlib, sys; pathlib.Path(sys.argv[1]).open('a').write('x')")
    run_here(job)
    run_here(job)
    assert (base_dir / "once").read_text() == "x"


def test_a_job_that_takes_the_whole_machine_runs_alone(make_job, base_dir):
    jobs = [make_job(name, TIMES) for name in ("first", "second", "third")]
    run_here(jobs[0], replace(jobs[1], whole_machine=True), jobs[2], num_parallel=3)
    start, end = map(float, (base_dir / "second").read_text().split())
    for name in ("first", "third"):
        other_start, other_end = map(float, (base_dir / name).read_text().split())
        assert other_end <= start or end <= other_start
