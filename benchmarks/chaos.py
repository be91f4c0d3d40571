"""Random faults over a small study on a private Slurm cluster, and a tally of what became of it.

Reads   nothing: cluster, study and disk are made here. Needs Slurm and munge (docs/study.md); as root the study lies on
        a small tmpfs, so that its disk can be full, elsewhere that fault is left out.
Writes  nothing but the tally. It stops at once where something finished was made again, a damage was not found, or a
        job was in flight twice; and at the end unless, after --retry_failed, every job is done and the tables are those
        of the undisturbed run.

    python benchmarks/chaos.py --num_faults 100
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

from open_instruct.common.artifacts import sidecar_path
from open_instruct.common.cli import run
from open_instruct.study.executors.slurm_client import LAUNCH_FAILED

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))
DISK = "128m"
IN_FLIGHT_A_ROUND, AT_REST_A_ROUND = 8, 4
MOST_ROUNDS_WITHOUT_FAULTS = 5
ASK_NODES_SECONDS = 20.0
MADE_TOGETHER = ("pretrain", "format", "report")
"""Stages that write several outputs in one pass: of what is not whole all is made again."""


@dataclass(frozen=True)
class Args:
    num_faults: int = 100
    num_time_limits: int = 2
    """Of them, how many are jobs that hang until their time limit; each takes over a minute."""
    seed: int = 0
    max_seconds: float = math.inf
    """Do no more harm after so long, however few faults it was."""


def main(args: Args) -> None:
    from private_slurm import PrivateSlurm, require_programs

    require_programs()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp") as folder, PrivateSlurm() as cluster:
        undisturbed = undisturbed_tables(Path(folder) / "undisturbed")
        print(f"undisturbed: {time.monotonic() - started:.0f} s", flush=True)
        with small_disk(Path(folder) / "slurm runs"):
            chaos = Chaos(cluster, Path(folder), args)
            chaos.go_on_until_hurt_enough()
            chaos.mend()
            chaos.check_tables(undisturbed)
        chaos.print_tally(time.monotonic() - started)


def undisturbed_tables(folder: Path) -> dict[str, bytes]:
    """Of the same study without Slurm and without faults."""
    from slurm_study import run_locally

    folder.mkdir()
    return run_locally(folder)


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
    def __init__(self, cluster, folder: Path, args: Args) -> None:
        from slurm_faults import Faults
        from slurm_study import SlurmStudy

        self.cluster, self.args = cluster, args
        self.study = SlurmStudy(cluster, folder)
        self.faults = Faults(self.study, args.seed)
        self.random = self.faults.random
        self.tally: Counter[str] = Counter()
        self.num_rounds = self.num_remade = self.num_stale = self.time_limits = 0

    def go_on_until_hurt_enough(self) -> None:
        until = time.monotonic() + self.args.max_seconds
        while self.tally.total() < self.args.num_faults and time.monotonic() < until:
            before = self.tally.total()
            self.round()
            print(f"round {self.num_rounds}: {self.tally.total()} faults: {dict(self.tally)}", flush=True)
            require(self.tally.total() > before or not self.study.is_done(), "nothing is left to be hurt")

    def round(self) -> None:
        """Submit what is not done, hurt it while it runs, let it drain, hurt what is finished, find the damage."""
        self.num_rounds += 1
        sidecars, finished = self.study.sidecars(), self.study.finished_jobs()
        self.study.run("--retry_failed")
        self.hurt_in_flight()
        self.drain()
        self.require_kept(sidecars, finished)
        self.hurt_at_rest()

    def hurt_in_flight(self) -> None:
        for _ in range(min(IN_FLIGHT_A_ROUND, self.args.num_faults - self.tally.total())):
            if not self.faults.tasks("RUNNING", "PENDING"):
                return
            time.sleep(self.random.uniform(0, 2.5))
            if self.time_limits < self.args.num_time_limits and self.faults.out_of_time():
                self.time_limits += 1
                self.tally["time limit"] += 1
                continue
            name = self.faults.draw(self.faults.in_flight)
            if self.faults.in_flight[name]():
                self.tally[name] += 1
            self.require_each_once()

    def hurt_at_rest(self) -> None:
        """Every damage is to be found by --verify, and nothing else to be given up."""
        damaged: set[str] = set()
        for _ in range(min(AT_REST_A_ROUND, self.args.num_faults - self.tally.total())):
            if self.faults.finished():
                name = self.faults.draw(self.faults.at_rest)
                damaged |= self.faults.at_rest[name]()
                self.tally[name] += 1
        found = self.study.verify()
        require(found == damaged, f"damaged: {sorted(damaged)}; found by --verify: {sorted(found)}")
        self.num_remade += len(found)

    def drain(self) -> None:
        asked = time.monotonic()
        while self.faults.tasks("RUNNING", "PENDING", "COMPLETING", "CONFIGURING"):
            if time.monotonic() - asked > ASK_NODES_SECONDS:
                # A controller that was killed believes in jobs that ended meanwhile, until it asks the nodes.
                self.cluster.run("scontrol", "reconfigure", check=False)
                asked = time.monotonic()
            if self.faults.waiting_for(LAUNCH_FAILED):
                self.study.run("--retry_failed")
            self.faults.hurry()
            time.sleep(0.5)

    def require_each_once(self) -> None:
        names = self.cluster.run("squeue", "--noheader", "--array", "--format=%j %K", check=False).stdout.splitlines()
        twice = [name for name, count in Counter(names).items() if count > 1]
        require(not twice, f"in flight twice: {', '.join(twice)}")

    def require_kept(self, sidecars: dict[Path, str], finished: dict[str, int]) -> None:
        """What was finished before this round was not made again in it, neither jobs nor single outputs of undone ones.

        What reads something that was not there at its beginning may be: a model made anew has another log.
        """
        jobs, now, again = self.study.jobs(), self.study.finished_jobs(), self.study.sidecars()
        undone = jobs.keys() - finished.keys()
        stale = self.study.descendants(undone)
        remade = [key for key, when in finished.items() if now.get(key) != when and key not in stale]
        for key in undone - stale:
            if jobs[key]["stage"] not in MADE_TOGETHER:
                found = [sidecar_path(Path(output)) for output in jobs[key]["outputs"]]
                remade += [str(path) for path in found if path in sidecars and again.get(path) != sidecars[path]]
        require(not remade, f"made twice: {', '.join(remade)}")
        self.num_stale += sum(now.get(key) != when for key, when in finished.items() if key in stale)

    def mend(self) -> None:
        for _ in range(MOST_ROUNDS_WITHOUT_FAULTS):
            if self.study.is_done():
                return
            self.study.run("--retry_failed")
            self.drain()
        require(self.study.is_done(), "not all jobs are done", self.study.run("--status"))

    def check_tables(self, undisturbed: dict[str, bytes]) -> None:
        require(not self.study.verify(), "something is damaged at the end")
        tables = self.study.tables()
        require(tables == undisturbed and len(tables) == 2, f"tables differ: {sorted(tables)} {sorted(undisturbed)}")

    def print_tally(self, seconds: float) -> None:
        for name, count in sorted(self.tally.items()):
            print(f"{count:>4}  {name}")
        print(
            f"{self.tally.total()} faults in {self.num_rounds} rounds, {seconds:.0f} s: {self.num_remade} finished "
            f"jobs were damaged, found and made again, and {self.num_stale} that read what is new; nothing else "
            "that was finished was made twice, nothing is lost, the tables are the same"
        )


def require(holds: bool, otherwise: str, details: str = "") -> None:
    if not holds:
        sys.exit(f"{otherwise}\n{details}")


if __name__ == "__main__":
    run(main, Args)
