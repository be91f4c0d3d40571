"""The small study on a private Slurm cluster, for the tests and benchmarks/robustness/chaos.py."""

import json
import os
import re
import subprocess
import sys
from itertools import chain
from pathlib import Path

import yaml
from private_slurm import PrivateSlurm
from toy_study import NUM_JOBS, SCRIPT, SMALL

UP_TO_REPORT = ("pretrain", "format", "convert", "finetune", "predict", "score", "suite", "report")


class SlurmStudy:
    """The small study in a base_dir of its own."""

    def __init__(self, cluster: PrivateSlurm, folder: Path, *, name: str = "toy") -> None:
        self.cluster, self.file, self.base_dir = cluster, folder / f"{name}.yaml", folder / "slurm runs"
        self.file.write_text(yaml.safe_dump(SMALL | {"name": name}))
        self.base_dir.mkdir(exist_ok=True)

    @property
    def command(self) -> list[str]:
        return [sys.executable, str(SCRIPT), str(self.file), "--executor", "slurm"]

    @property
    def environment(self) -> dict[str, str]:
        return self.cluster.environment | {"base_dir": str(self.base_dir)}

    def run(self, *options: str, exit_code: int = 0) -> str:
        """Output of `run_study.py --executor slurm`."""
        done = self.attempt(*options)
        assert done.returncode == exit_code, done.stdout + done.stderr
        return done.stdout

    def attempt(self, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.command, *options], env=self.environment, capture_output=True, text=True)

    def counts(self) -> dict[str, int]:
        """Number of jobs in each state."""
        header, *rows = [line.split() for line in self.run("--status").split("\n\n")[0].splitlines()]
        states = header[2 : header.index("time")]
        return {state: sum(int(row[2 + i]) for row in rows) for i, state in enumerate(states)}

    def is_done(self) -> bool:
        return self.counts()["done"] == NUM_JOBS

    def finished_jobs(self) -> dict[str, int]:
        """Key of each job in the job cache -> when it was recorded."""
        entries = (self.base_dir / "output" / "jobs").glob("*.json")
        return {path.stem.rpartition(".")[0]: path.stat().st_mtime_ns for path in entries}

    def sidecars(self) -> dict[Path, str]:
        """Sidecar of every output -> its content, which has the time at which the output was made."""
        return {path: path.read_text() for path in self.base_dir.rglob("*meta.json")}

    def jobs(self) -> dict[str, dict]:
        """All submitted jobs by key, as recorded in output/slurm/."""
        lines = [p.read_text().splitlines() for p in (self.base_dir / "output" / "slurm").glob("*/jobs.jsonl")]
        return {f"{job['stage']}.{job['name']}": job for job in map(json.loads, chain.from_iterable(lines))}

    def descendants(self, keys: set[str]) -> set[str]:
        """Jobs that depend on these, directly or not."""
        found, jobs = set[str](), self.jobs()
        made = {path for key in keys & jobs.keys() for path in jobs[key]["outputs"]}
        while more := {key for key, job in jobs.items() if made & set(job["inputs"])} - found:
            found |= more
            made |= {path for key in more for path in jobs[key]["outputs"]}
        return found

    def verify(self) -> set[str]:
        """Keys of the jobs that --verify marks to be run again."""
        done = self.attempt("--verify")
        assert done.returncode in (0, 1), done.stdout + done.stderr
        listed = re.search(r"to be run again: (.*); type:", done.stdout)
        return set(listed[1].split(", ")) if listed else set()

    def tables(self) -> dict[str, bytes]:
        return tables(self.base_dir)


def tables(base_dir: Path, names: str = "*.csv") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (base_dir / "results" / SMALL["name"]).glob(names)}


def run_locally(base_dir: Path) -> dict[str, bytes]:
    """Run the small study on this machine, up to its report.  -> its tables"""
    file = base_dir / "toy.yaml"
    file.write_text(yaml.safe_dump(SMALL))
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(file), "--only", *UP_TO_REPORT],
        env=os.environ | {"base_dir": str(base_dir)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return tables(base_dir)
