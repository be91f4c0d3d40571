"""Fault injection: what fails on a cluster, done to a study by a seeded random generator, one call a fault.

Faults in flight need a queued or running job, and return whether they found one. Faults at rest damage finished
outputs, and return the jobs that made them.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil
from private_slurm import NODES
from slurm_study import SlurmStudy

from open_instruct.common.sidecars import sidecar_path

DAY_SECONDS = 86_400
LEFT_BYTES = 16_384
"""Free space of a full disk."""
DAEMONS = (*NODES, "slurmctld", "munged")


class Faults:
    def __init__(self, study: SlurmStudy, seed: int) -> None:
        self.study, self.cluster, self.random = study, study.cluster, random.Random(seed)
        self.deck: list[str] = []
        self.in_flight: dict[str, Callable[[], bool]] = {
            "kill -9 of a process of a job": self.kill_process,
            "kill -9 of all of a job": self.kill_job,
            "kill -9 of a daemon": self.kill_daemon,
            "scancel": self.scancel,
            "warned of the time limit": self.warn,
            "double submission": self.submit_twice,
            "kill -9 of a submission": self.kill_submission,
        }
        if os.path.ismount(study.base_dir):
            self.in_flight["full disk"] = self.fill_disk
        self.at_rest: dict[str, Callable[[], set[str]]] = {
            "truncated output": lambda: self.damage(truncate, with_sidecars=True),
            "bit flipped": lambda: self.damage(lambda path: flip(path, self.random, keep_time=False)),
            "bit flipped, time kept": lambda: self.damage(lambda path: flip(path, self.random, keep_time=True)),
            "clock skew": self.skew,
        }

    def draw(self, kinds: Mapping[str, object]) -> str:
        """Draw a kind of fault without replacement, from a deck that is renewed when it is empty."""
        if not (left := [name for name in self.deck if name in kinds]):
            left = self.random.sample(sorted(kinds), len(kinds))
            self.deck += left
        self.deck.remove(left[0])
        return left[0]

    def tasks(self, *states: str) -> list[tuple[str, str]]:
        """Array task and job number of all tasks in one of these states."""
        done = self.cluster.run("squeue", "--noheader", "--array", "--format=%F_%K %A %T", check=False)
        found = [line.split() for line in done.stdout.splitlines()]
        return [(task, number) for task, number, state in found if state in states]

    def hurry(self) -> None:
        """Start requeued jobs now: Slurm would delay them by two minutes."""
        for number in self.waiting_for("BeginTime"):
            self.cluster.run("scontrol", "update", f"JobId={number}", "StartTime=now", check=False)
        self.resume_nodes()
        self.end_orphans()

    def end_orphans(self) -> None:
        """Kill stopped processes of ended jobs, which hold locks on outputs; on a real cluster cgroups do it."""
        running = [number for _, number in self.tasks("RUNNING", "COMPLETING")]
        for process in psutil.process_iter() if running else ():
            with suppress(psutil.Error):
                is_stopped = process.status() == psutil.STATUS_STOPPED
                if is_stopped and (job := self.job_of(process.pid)) and job not in running:
                    process.kill()

    def waiting_for(self, reason: str) -> list[str]:
        """Numbers of the jobs that are queued for this reason."""
        done = self.cluster.run("squeue", "--noheader", "--array", "--format=%A %r", "--states=PENDING", check=False)
        found = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
        return [number for number, why in found if why == reason]

    def resume_nodes(self) -> None:
        """Resume nodes that Slurm has drained after a daemon was killed, as an administrator would."""
        done = self.cluster.run("sinfo", "--noheader", "--Node", "--format=%N %t", check=False)
        for node, state in (line.split() for line in done.stdout.splitlines()):
            if state.startswith(("drain", "drng", "down")):
                self.cluster.run("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)

    def processes(self) -> list[list[int]]:
        """Processes of each running task."""
        found = [self.pids(number) for _, number in self.tasks("RUNNING")]
        return [pids for pids in found if pids]

    def pids(self, job_number: str) -> list[int]:
        return [pid for pid in psutil.pids() if self.job_of(pid) == job_number]

    def job_of(self, pid: int) -> str | None:
        """Number of this cluster's job to which the process belongs."""
        try:
            environment = psutil.Process(pid).environ()
        except psutil.Error:
            return None
        ours = environment.get("SLURM_CONF") == f"{self.cluster.folder}/slurm.conf"
        return environment.get("SLURM_JOB_ID") if ours else None

    def kill_process(self) -> bool:
        running = self.processes()
        return bool(running) and kill([self.random.choice(self.random.choice(running))])

    def kill_job(self) -> bool:
        running = self.processes()
        return bool(running) and kill(self.random.choice(running))

    def kill_daemon(self) -> bool:
        if not self.tasks("RUNNING", "PENDING"):
            return False
        name = self.random.choice(DAEMONS)
        self.cluster.kill(name)
        time.sleep(self.random.uniform(0, 1))
        self.cluster.start(name)
        self.cluster.wait_for(lambda: self.resume_nodes() or self.cluster.is_up(), "both nodes to be up again")
        return True

    def scancel(self) -> bool:
        tasks = self.tasks("RUNNING", "PENDING")
        if tasks:
            task, _ = self.random.choice(tasks)
            self.cluster.run("scancel", self.random.choice([task, task.split("_")[0]]), check=False)
        return bool(tasks)

    def warn(self) -> bool:
        """Send the signal before the time limit, at which a job saves its state and is requeued."""
        tasks = self.tasks("RUNNING")
        if tasks:
            self.cluster.run("scancel", "--signal=USR1", "--batch", self.random.choice(tasks)[0], check=False)
        return bool(tasks)

    def out_of_time(self) -> bool:
        """Stop a job's processes until Slurm ends it: after a minute, its shortest limit."""
        for number in (number for _, number in self.tasks("RUNNING")):
            pids = [pid for pid in self.pids(number) if "run_job" not in command_line(pid)]
            if pids and kill(pids, signal.SIGSTOP):
                limit = self.cluster.run("scontrol", "update", f"JobId={number}", "TimeLimit=1", check=False)
                return limit.returncode == 0
        return False

    def submit_twice(self) -> bool:
        """Two concurrent submissions."""
        command, environment = [*self.study.command, "--retry_failed"], self.study.environment
        both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        outputs = [one.communicate()[0] for one in both]
        assert [one.returncode for one in both] == [0, 0], outputs
        return True

    def kill_submission(self) -> bool:
        """Kill a submission at a random moment, then run the same command again."""
        command = [*self.study.command, "--retry_failed"]
        one = subprocess.Popen(command, env=self.study.environment, stdout=subprocess.DEVNULL)
        time.sleep(self.random.uniform(0.3, 2))
        one.kill()
        one.wait()
        self.study.run("--retry_failed")
        return True

    def fill_disk(self) -> bool:
        if not self.tasks("RUNNING"):
            return False
        filler = self.study.base_dir / "filler"
        with filler.open("wb") as file:
            while (left := shutil.disk_usage(self.study.base_dir).free - LEFT_BYTES) > 0:
                with suppress(OSError):  # a job has just used some of it
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), left)
        time.sleep(self.random.uniform(2, 6))
        filler.unlink()
        return True

    def damage(self, inflict: Callable[[Path], None], *, with_sidecars: bool = False) -> set[str]:
        job, outputs = self.random.choice(sorted(self.finished().items()))
        files = [path for output in outputs for path in files_of(output)]
        files += [sidecar_path(output) for output in outputs if with_sidecars]
        inflict(self.random.choice([path for path in files if path.is_file() and path.stat().st_size]))
        return {job}

    def skew(self) -> set[str]:
        """Change the times of a job's outputs by a day, as a node with a wrong clock would: not a damage."""
        _, outputs = self.random.choice(sorted(self.finished().items()))
        by = self.random.choice([-DAY_SECONDS, DAY_SECONDS])
        for path in (path for output in outputs for path in [*files_of(output), sidecar_path(output)] if path.exists()):
            times = path.stat()
            os.utime(path, (times.st_atime + by, times.st_mtime + by))
        return set()

    def finished(self) -> dict[str, list[Path]]:
        """Key of each finished job -> its outputs."""
        jobs, done = self.study.jobs(), self.study.finished_jobs()
        return {key: [Path(output) for output in jobs[key]["outputs"]] for key in jobs.keys() & done.keys()}


def files_of(output: Path) -> list[Path]:
    if output.is_file():
        return [output]
    return sorted(path for path in output.rglob("*") if path.is_file() and path.name != "meta.json")


def command_line(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ""


def kill(pids: list[int], number: int = signal.SIGKILL) -> bool:
    """Send a signal.  -> whether any of the processes was alive"""
    was_alive = False
    for pid in pids:
        try:
            os.kill(pid, number)
            was_alive = True
        except ProcessLookupError:
            continue
    return was_alive


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path, generator: random.Random, *, keep_time: bool) -> None:
    times, content = path.stat(), bytearray(path.read_bytes())
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    path.write_bytes(content)
    if keep_time:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
