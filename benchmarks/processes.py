"""Seconds, CPU seconds and peak memory of a command."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from open_instruct.common.errors import UserError

# The peak memory of a process includes that of its parent at the fork, so that a small process starts the command.
LAUNCHER = """
import json, resource, subprocess, sys, time
started = time.monotonic()
code = subprocess.run(sys.argv[1:]).returncode
seconds, usage = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
cpu_seconds = usage.ru_utime + usage.ru_stime
print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": usage.ru_maxrss * 1024}))
sys.exit(code)
"""


@dataclass(frozen=True)
class Measured:
    name: str
    output: str
    seconds: float
    cpu_seconds: float
    """Of all threads, user and system; hardly affected by other load on the machine."""
    peak_bytes: int
    """Maximum resident set, pages of mapped files included."""


def measure(name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> Measured:
    """Run `command` after pending writes to disk, and print its times.  Raises UserError if it fails."""
    os.sync()
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHER, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | dict(environment or {}),
    )
    *output, usage = done.stdout.splitlines(keepends=True)
    if done.returncode:
        raise UserError(f"{name} failed: {''.join(output)[-2000:]}")
    measured = Measured(name, "".join(output), **json.loads(usage))
    times = f"{measured.seconds:.1f} s ({measured.cpu_seconds:.1f} s CPU)"
    print(f"{name}: {times}, peak {measured.peak_bytes / 2**20:,.0f} MiB", flush=True)
    return measured


def script(*parts: object) -> list[str]:
    """The command that runs a script of this repository in this Python."""
    return [sys.executable, *map(str, parts)]
