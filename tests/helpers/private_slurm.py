"""A private Slurm cluster in a temporary folder: two nodes of eight CPUs and two simulated GPUs, all on this machine.

    pytest: a test with the fixture `slurm` (tests/conftest.py) gets a running PrivateSlurm. Where Slurm is not
    installed (Debian: apt-get install slurm-wlm munge) it is skipped, and the end of the run says why.
    by hand: python tests/helpers/private_slurm.py bash      # a shell in which sbatch and squeue use a private cluster

Needs no root, no accounting, no system service; listens on 127.0.0.1 only. The daemons are children of this process
and end with `close`. Tested with Slurm 22.05 and munge 0.5.15 of Debian 12.
"""

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")
DAEMON_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
"""Debian's folders of the daemons, which are not on a user's PATH."""
NODES = ("n1", "n2")
CPUS_A_NODE = 8
FAKE_GPUS = ("/dev/null", "/dev/zero")
"""Slurm requires a device node for each GPU; any does."""
CONFIG = """\
ClusterName=toy
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
PlugStackConfig={folder}/plugstack.conf
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobcomp.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,batch_sched_delay=0
ReturnToService=2
MinJobAge=3600
KillWait=1
OverTimeLimit=0
MailProg=/bin/true
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=DEFAULT CPUs={cpus} RealMemory=512000 Gres=gpu:{gpus} State=UNKNOWN
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing_programs() -> list[str]:
    return [name for name in PROGRAMS if find(name) is None]


def require_programs() -> None:
    """Raises UserError that names what is missing, and how to get it."""
    from open_instruct.common.errors import UserError  # by hand, any Python will do

    if missing := missing_programs():
        raise UserError(f"Slurm is not installed ({', '.join(missing)} not found); apt-get install slurm-wlm munge")


def find(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path=DAEMON_PATH)


def user_name() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class PrivateSlurm:
    def __init__(self) -> None:
        # The path of a Unix socket has at most 108 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        self.daemons: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> "PrivateSlurm":
        try:
            self.configure()
            for name in ("munged", "slurmctld", *NODES):
                self.start(name)
            self.wait_until_up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a process whose sbatch and squeue use this cluster."""
        inside = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        python = str(Path(sys.executable).parent)  # stage scripts call `python`
        return inside | {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": f"{python}:{os.environ['PATH']}"}

    def configure(self) -> None:
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        (self.folder / "plugstack.conf").touch()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        host = socket.gethostname().split(".")[0]
        nodes = [f"NodeName={n} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()}" for n in NODES]
        (self.folder / "slurm.conf").write_text(
            CONFIG.format(
                host=host,
                controller_port=free_port(),
                user=user_name(),
                folder=self.folder,
                cpus=CPUS_A_NODE,
                gpus=len(FAKE_GPUS),
                nodes="\n".join(nodes),
            )
        )
        gres = [f"NodeName={node} Name=gpu File={device}\n" for node in NODES for device in FAKE_GPUS]
        (self.folder / "gres.conf").write_text("".join(gres))

    def start(self, name: str) -> None:
        """Start a daemon (`munged`, `slurmctld`, `n1`, `n2`), for the first time or again after `kill`."""
        munge = {
            option: self.folder / f"munge.{option.split('-')[0]}" for option in ("key-file", "log-file", "pid-file")
        }
        command = {
            "munged": [
                *("munged", "-F", "--force", "--num-threads=2", f"--socket={self.folder}/munge.sock"),
                *(f"--{option}={path}" for option, path in munge.items()),
                f"--seed-file={self.folder}/munge.seed",
            ],
            "slurmctld": ["slurmctld", "-D"],
        }.get(name, ["slurmd", "-D", "-N", name])
        program = find(command[0]) or command[0]
        with (self.folder / f"{name}.out").open("a") as output:
            self.daemons[name] = subprocess.Popen(
                [program, *command[1:]], env=self.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        if name == "munged":
            self.wait_for(lambda: (self.folder / "munge.sock").exists(), "munged's socket")

    def is_up(self) -> bool:
        done = self.run("sinfo", "--noheader", "--Node", "--format=%t", check=False)
        return done.returncode == 0 and set(done.stdout.split()) <= {"idle", "mix", "alloc", "comp"}

    def wait_until_up(self) -> None:
        self.wait_for(self.is_up, "both nodes to be up")

    def wait_for(self, condition, what: str, *, seconds: float = 60.0) -> None:
        until = time.monotonic() + seconds
        while not condition():
            dead = [name for name, daemon in self.daemons.items() if daemon.poll() is not None]
            if dead or time.monotonic() > until:
                logs = [f"{path.name}:\n{path.read_text()[-1500:]}" for path in sorted(self.folder.glob("*.out"))]
                raise RuntimeError(f"waiting for {what}; ended: {', '.join(dead) or 'none'}\n" + "\n".join(logs))
            time.sleep(0.2)

    def run(
        self, *command: str, check: bool = True, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command with this cluster's environment.  Raises RuntimeError with its output where it fails."""
        done = subprocess.run(
            command, env=self.environment | dict(env or {}), cwd=cwd, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}{done.stdout}")
        return done

    def sbatch(self, *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
        """Submit a job.  -> its id"""
        return self.run("sbatch", "--parsable", *arguments, cwd=cwd, env=env).stdout.strip()

    def state(self, job_id: str) -> str:
        """`PENDING`, `RUNNING`, `COMPLETED`, `FAILED`, `CANCELLED`, `TIMEOUT`, … of a job."""
        return self.run("squeue", "--noheader", "--states=all", "--format=%T", "--jobs", job_id).stdout.split()[0]

    def wait_for_job(self, job_id: str, *, seconds: float = 120.0) -> str:
        """Wait until a job has ended.  -> its last state"""
        alive = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED", "STOPPED"}
        self.wait_for(lambda: self.state(job_id) not in alive, f"job {job_id} to end", seconds=seconds)
        return self.state(job_id)

    def wait_until_empty(self, *, seconds: float = 300.0) -> None:
        """Wait until no job is queued or running."""

        def is_empty() -> bool:
            done = self.run("squeue", "--noheader", "--format=%i", check=False)
            return done.returncode == 0 and not done.stdout.strip()

        self.wait_for(is_empty, "the queue to be empty", seconds=seconds)

    def kill(self, name: str) -> None:
        """kill -9 of a daemon; `start` restores its state on disk, which lacks the submissions of the last seconds."""
        daemon = self.daemons.pop(name)
        daemon.kill()
        daemon.wait()

    def restart(self, name: str) -> None:
        """A clean restart: the daemon saves its state, ends and starts again."""
        self.daemons[name].terminate()
        self.daemons.pop(name).wait()
        self.start(name)

    def close(self) -> None:
        """End jobs and daemons, and remove the folder."""
        if "slurmctld" in self.daemons:
            self.run("scancel", "--user", user_name(), check=False)
            until = time.monotonic() + 10
            while time.monotonic() < until and self.run("squeue", "--noheader", check=False).stdout.strip():
                time.sleep(0.1)
        for name in (*NODES, "slurmctld", "munged"):
            if daemon := self.daemons.pop(name, None):
                daemon.terminate()
                try:
                    daemon.wait(timeout=5)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def main(command: Sequence[str]) -> None:
    if missing := missing_programs():
        sys.exit(f"error: {', '.join(missing)} not found; apt-get install slurm-wlm munge")
    with PrivateSlurm() as slurm:
        sys.exit(subprocess.run(list(command) or ["bash"], env=slurm.environment, check=False).returncode)


if __name__ == "__main__":
    main(sys.argv[1:])
