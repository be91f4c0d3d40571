"""How an output was made: commit, package versions, host, time, memory."""

import resource
import socket
import subprocess
import time
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from open_instruct.common.paths import REPOSITORY

RECORDED_PACKAGES = ("torch", "transformers", "datasets", "accelerate", "peft", "ai2-olmo", "numpy")
PROJECT = "pretraining-vs-finetuning"


def provenance() -> dict[str, Any]:
    """Commit, package versions, host, time, peak resident memory."""
    return {
        "git_commit": git_commit(),
        "versions": {name: package_version(name) for name in (PROJECT, *RECORDED_PACKAGES)},
        "host": socket.gethostname(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


@cache
def git_commit() -> str | None:
    """None outside a repository: an installed wheel may lie inside another one."""
    if not (REPOSITORY / ".git").exists():
        return None
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None


@cache
def package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
