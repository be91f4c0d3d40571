"""Jobs that run a few lines of Python, and local runs of them: here, or in a process that can be killed."""

import os
import pickle
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from toy_study import SCRIPT

from open_instruct.common import paths
from open_instruct.study.config import Study
from open_instruct.study.executors import warm_process
from open_instruct.study.job import Job
from open_instruct.study.status import Status

WRITE = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('made')"
FAIL = """import sys, warnings
print("half done", flush=True)
print("error: no cat was found; put one on the mat", file=sys.stderr)
warnings.warn("there appear to be 1 leaked objects")
sys.exit(3)"""
SAVE_WHEN_STOPPED = """import os, pathlib, signal, sys, time
output = pathlib.Path(sys.argv[1])
saved = output.with_name(output.name + ".saved")
def save(*_):
    saved.touch()
    sys.exit(85)
if not saved.exists():
    signal.signal(signal.SIGTERM, save)
    output.with_name(output.name + ".started").write_text(str(os.getpid()))
    time.sleep(300)
output.write_text("made")"""
"""The first attempt runs until it is stopped; the next one ends at once if that one has saved its state."""
RUN_PICKLED = "import pickle, sys, fake_jobs; fake_jobs.run_here(*pickle.load(open(sys.argv[1], 'rb')))"


def fake_job(folder: Path, name: str, code: str, *inputs: Job) -> Job:
    """A job that runs `code` with its output as the only argument."""
    script, output = folder / f"{name}.py", folder / name
    script.write_text(code)
    return Job("score", name, (str(script), str(output)), (output,), tuple(job.outputs[0] for job in inputs))


def run_here(*jobs: Job, study_name: str = "toy", num_parallel: int = 2, overwrite: bool = False) -> None:
    warm_process.HEAVY_MODULES = []
    script = runpy.run_path(str(SCRIPT))
    args = script["Args"](study=SCRIPT, num_parallel=num_parallel, overwrite=overwrite)
    script["run_here"](args, study_named(study_name), jobs)


def start_run(*jobs: Job) -> subprocess.Popen[str]:
    """The same in a process of its own, the leader of a session."""
    file = paths.base_dir() / "jobs.pickle"
    file.write_bytes(pickle.dumps(jobs))
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""), str(paths.REPOSITORY)])
    return subprocess.Popen(
        [sys.executable, "-c", RUN_PICKLED, str(file)],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def pid_when_started(job: Job) -> int:
    """Process of a job that saves when it is stopped; waits until it runs."""
    file = job.outputs[0].with_name(f"{job.outputs[0].name}.started")
    wait_for(lambda: file.is_file() and bool(file.read_text()))
    return int(file.read_text())


def wait_for(condition: Any) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not is_alive(pid))


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def study_named(name: str) -> Study:
    return Study(name, train_sets={}, evaluation={})


def current_status(*jobs: Job, study_name: str = "toy", executor: str = "local") -> Status:
    """As --status finds it."""
    script = runpy.run_path(str(SCRIPT))
    return script["current_status"](script["Args"](study=SCRIPT, executor=executor), study_named(study_name), jobs)


def states(*jobs: Job, study_name: str = "toy", executor: str = "local") -> dict[str, str]:
    """State of each job by its name."""
    now = current_status(*jobs, study_name=study_name, executor=executor)
    return {one.job.name: one.state for one in now.jobs}
