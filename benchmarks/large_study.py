"""Time and memory of planning a very large study, and of asking how far it is.

Writes a study file and, to a temporary folder, every output of that study with its sidecar, tiny, and the job cache
of all jobs but every hundredth; then runs scripts/run_study.py on it, each time in a process of its own.

    python benchmarks/large_study.py                          # 154 checkpoints, 141,680 predictions
    python benchmarks/large_study.py --num_checkpoints 3
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from open_instruct.common.artifacts import sidecar_path
from open_instruct.common.cli import run
from open_instruct.study.job import Job
from open_instruct.study.job_cache import JobCache
from open_instruct.study.loading import load_study
from open_instruct.study.plan import plan
from open_instruct.tasks import EVAL_SETS

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "run_study.py"
# Every checkpoint that Pythia published.
STEPS = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, *range(1000, 143_001, 1000)]
UNDONE_EVERY = 100


@dataclass(frozen=True)
class Args:
    num_checkpoints: int = len(STEPS)
    num_evaluation_sets: int = 20
    folder: Path | None = None
    """Where to write (default: a temporary folder, removed at the end)."""


def main(args: Args) -> None:
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        os.environ.update(base_dir=folder)
        os.environ.pop("data_dir", None)
        study_file = write_study(Path(folder), args)
        measure("--dry_run, nothing there", study_file, "--dry_run")
        jobs = plan(load_study(study_file), study_file)
        num_predictions = sum(len(job.outputs) for job in jobs if job.stage == "predict")
        print(f"{len(jobs)} jobs, {num_predictions} predictions", flush=True)
        started = time.monotonic()
        write_outputs(jobs)
        print(f"wrote what they would, in {time.monotonic() - started:.0f} s", flush=True)
        measure("--dry_run, most of it done", study_file, "--dry_run")
        print(measure("--status", study_file, "--status"))


def write_study(folder: Path, args: Args) -> Path:
    recipe = {"epochs": 3, "lr": [2e-7, 2e-6, 2e-5], "seeds": [42, 43, 44]}
    study = {"name": "large", "family": "pythia-410m", "steps": STEPS[: args.num_checkpoints]}
    study |= {"train_sets": dict.fromkeys(("xsum", "socialiqa", "mnli", "paws", "tulu"), recipe)}
    study |= {"evaluation": {name: {} for name in list(EVAL_SETS)[: args.num_evaluation_sets]}}
    path = folder / "large.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


def write_outputs(jobs: Sequence[Job]) -> None:
    """As a run would have left them, but for their content."""
    cache = JobCache()
    cache.folder.mkdir(parents=True)
    for folder in {path.parent for job in jobs for path in job.outputs}:
        folder.mkdir(parents=True, exist_ok=True)
    for number, job in enumerate(jobs):
        for path in job.outputs:
            if path.suffix:
                path.write_text("{}\n")
            else:
                path.mkdir()
                (path / "model.safetensors").write_text(str(path))
            sidecar_path(path).write_text('{"files": {}}\n')
        if number % UNDONE_EVERY:
            entry = {"content": "", "signature": cache.signature(job), "seconds": 60.0}
            cache.path(job).write_text(json.dumps(entry))


def measure(name: str, study_file: Path, option: str) -> str:
    """Run it, print wall-clock time and peak memory of that process.  -> what it printed"""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run([sys.executable, str(SCRIPT), str(study_file), option], capture_output=True, text=True)
    seconds = time.monotonic() - started
    if done.returncode:
        sys.exit(f"{name} failed: {done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{name}: {seconds:.1f} s ({cpu:.1f} s of processor), at most {after.ru_maxrss / 1024:,.0f} MiB", flush=True)
    return done.stdout


if __name__ == "__main__":
    run(main, Args)
