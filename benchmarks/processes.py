"""A command's seconds and peak memory, measured when the disk has come to rest."""

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from open_instruct.common.errors import UserError


@dataclass(frozen=True)
class Measured:
    what: str
    seconds: float
    cpu_seconds: float
    """Of all its threads, in its own code and in the kernel: it hardly depends on what else the machine does."""
    peak_bytes: int
    """Resident, pages of mapped files included."""
    output: str


def measure(what: str, command: Sequence[str]) -> Measured:
    """Run `command` after the disk has come to rest.  Raises UserError where it fails."""
    os.sync()
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise UserError(f"{what} failed: {output[-2000:]}")
    cpu_seconds = usage.ru_utime + usage.ru_stime
    measured = Measured(what, time.monotonic() - started, cpu_seconds, usage.ru_maxrss * 1024, output)
    print(f"{what}: {measured.seconds:.1f} s", flush=True)
    return measured
