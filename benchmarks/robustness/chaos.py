"""Random faults over a small study on a private Slurm cluster, with a count of their outcomes.

Reads   nothing: cluster, study and disk are made here. Needs Slurm and munge (docs/study.md). As root the study is on a
        small tmpfs, so that its disk can become full; otherwise that fault is left out.
Writes  nothing. Exits with 1 at once if a finished output is made again, a damage is not found, or a job is in flight
        twice; and at the end unless, after --retry_failed, every job is done and the tables are those of an undisturbed
        local run.

    python benchmarks/robustness/chaos.py --num_faults 100
"""

import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from open_instruct.common.cli import run
from open_instruct.common.paths import REPOSITORY
from open_instruct.common.sidecars import sidecar_path
from open_instruct.study.executors.slurm_client import LAUNCH_FAILED

sys.path.insert(0, str(REPOSITORY / "tests" / "helpers"))
from private_slurm import PrivateSlurm, require_programs
from slurm_faults import Faults
from slurm_study import SlurmStudy, run_locally

DISK = "128m"
MAX_FAULTS_IN_FLIGHT, MAX_FAULTS_AT_REST = 8, 4
"""In each cycle."""
MAX_CYCLES_WITHOUT_FAULTS = 5
RECONFIGURE_SECONDS = 20.0
MADE_TOGETHER = ("pretrain", "format", "report")
"""Stages that make all their outputs again if one is missing."""


@dataclass(frozen=True)
class Args:
    num_faults: int = 100
    num_time_limits: int = 2
    """How many of the faults are jobs that hang until their time limit; each takes over a minute."""
    seed: int = 0
    max_seconds: float = math.inf
    """Stop injecting faults after this time."""


def main(args: Args) -> None:
    require_programs()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp") as folder, PrivateSlurm() as cluster:
        local = Path(folder) / "undisturbed"
        local.mkdir()
        expected = run_locally(local)
        print(f"undisturbed: {time.monotonic() - started:.0f} s", flush=True)
        with small_disk(Path(folder) / "slurm runs"):
            chaos = Chaos(cluster, Path(folder), args)
            chaos.run_cycles()
            chaos.finish()
            tables = chaos.study.tables()
            require(bool(tables) and tables == expected, f"tables differ: {sorted(tables)} {sorted(expected)}")
        chaos.print_counts(time.monotonic() - started)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir()
    if os.geteuid() != 0:
        print("full disk: left out, a tmpfs needs root", flush=True)
        yield
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "chaos", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Chaos:
    def __init__(self, cluster: PrivateSlurm, folder: Path, args: Args) -> None:
        self.cluster, self.args = cluster, args
        self.study = SlurmStudy(cluster, folder)
        self.faults = Faults(self.study, args.seed)
        self.random = self.faults.random
        self.counts: Counter[str] = Counter()
        self.num_cycles = self.num_damaged = self.num_stale = 0

    def run_cycles(self) -> None:
        until = time.monotonic() + self.args.max_seconds
        while self.num_left and time.monotonic() < until:
            before = self.counts.total()
            self.run_cycle()
            print(f"cycle {self.num_cycles}: {self.counts.total()} faults: {dict(self.counts)}", flush=True)
            require(self.counts.total() > before or not self.study.is_done(), "no fault can be injected any more")

    @property
    def num_left(self) -> int:
        return self.args.num_faults - self.counts.total()

    def run_cycle(self) -> None:
        """Submit missing jobs, inject faults while they run, drain the queue, damage finished outputs and find that."""
        self.num_cycles += 1
        sidecars, finished = self.study.sidecars(), self.study.finished_jobs()
        self.study.run("--retry_failed")
        self.disturb_jobs()
        self.drain()
        self.require_kept(sidecars, finished)
        self.damage_outputs()

    def disturb_jobs(self) -> None:
        for _ in range(min(MAX_FAULTS_IN_FLIGHT, self.num_left)):
            if not self.faults.tasks("RUNNING", "PENDING"):
                return
            time.sleep(self.random.uniform(0, 2.5))
            if self.counts["time limit"] < self.args.num_time_limits and self.faults.out_of_time():
                self.counts["time limit"] += 1
                continue
            name = self.faults.draw(self.faults.in_flight)
            if self.faults.in_flight[name]():
                self.counts[name] += 1
            names = self.cluster.run("squeue", "--noheader", "--array", "--format=%j %K", check=False).stdout
            twice = [name for name, count in Counter(names.splitlines()).items() if count > 1]
            require(not twice, f"in flight twice: {', '.join(twice)}")

    def damage_outputs(self) -> None:
        """--verify must find every damaged job, and no other."""
        damaged: set[str] = set()
        for _ in range(min(MAX_FAULTS_AT_REST, self.num_left)):
            if self.faults.finished():
                name = self.faults.draw(self.faults.at_rest)
                damaged |= self.faults.at_rest[name]()
                self.counts[name] += 1
        found = self.study.verify()
        require(found == damaged, f"damaged: {sorted(damaged)}; found by --verify: {sorted(found)}")
        self.num_damaged += len(found)

    def drain(self) -> None:
        reconfigured = time.monotonic()
        while self.faults.tasks("RUNNING", "PENDING", "COMPLETING", "CONFIGURING"):
            if time.monotonic() - reconfigured > RECONFIGURE_SECONDS:
                # A controller that was killed shows jobs that have ended as running until it polls the nodes.
                self.cluster.run("scontrol", "reconfigure", check=False)
                reconfigured = time.monotonic()
            if self.faults.waiting_for(LAUNCH_FAILED):
                self.study.run("--retry_failed")
            self.faults.hurry()
            time.sleep(0.5)

    def require_kept(self, sidecars: dict[Path, str], finished: dict[str, int]) -> None:
        """Jobs and single outputs that were finished before this cycle were not made again.

        Exempt are those that read outputs made in this cycle: a model that is trained again has another log.
        """
        jobs, finished_now, sidecars_now = self.study.jobs(), self.study.finished_jobs(), self.study.sidecars()
        undone = jobs.keys() - finished.keys()
        stale = self.study.descendants(undone)
        remade = {key for key, when in finished.items() if finished_now.get(key) != when}
        twice = sorted(remade - stale)
        for key in undone - stale:
            if jobs[key]["stage"] not in MADE_TOGETHER:
                found = [sidecar_path(Path(output)) for output in jobs[key]["outputs"]]
                twice += [str(path) for path in found if path in sidecars and sidecars_now.get(path) != sidecars[path]]
        require(not twice, f"made twice: {', '.join(twice)}")
        self.num_stale += len(remade & stale)

    def finish(self) -> None:
        for _ in range(MAX_CYCLES_WITHOUT_FAULTS):
            if not self.study.is_done():
                self.study.run("--retry_failed")
                self.drain()
        require(self.study.is_done(), f"not all jobs are done\n{self.study.run('--status')}")
        require(not self.study.verify(), "an output is damaged at the end")

    def print_counts(self, seconds: float) -> None:
        for name, count in sorted(self.counts.items()):
            print(f"{count:>4}  {name}")
        print(
            f"{self.counts.total()} faults in {self.num_cycles} cycles, {seconds:.0f} s: {self.num_damaged} finished "
            f"jobs were damaged, found and made again, and {self.num_stale} that read their outputs; no other finished "
            "job was made twice, nothing is missing, the tables are the same"
        )


def require(condition: bool, message: str) -> None:
    if not condition:
        sys.exit(message)


if __name__ == "__main__":
    run(main, Args)
