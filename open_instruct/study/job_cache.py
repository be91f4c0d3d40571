"""The job cache: after each job, hashes of its inputs and outputs, compared before it is run again.

The stages skip finished work too; a cache entry saves starting a process for that. Studies with the same job share it.
"""

import os
import stat
from functools import cache
from pathlib import Path

from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.hashing import digest
from open_instruct.common.json_files import read_json, write_json
from open_instruct.common.sidecars import SIDECAR_ENDING, content_hash, has_sidecar
from open_instruct.study.job import Job


class JobCache:
    """Reads each file once: make a new object to see later changes."""

    def __init__(self) -> None:
        self.folder = paths.base_dir() / "output" / "jobs"
        self._read = cache(read_entry)
        self._hash = cache(readable_hash)
        self._signature = cache(signature_of)

    def path(self, job: Job) -> Path:
        return self.folder / f"{job.id}.json"

    def is_done(self, job: Job) -> bool:
        """Whether all inputs and outputs are as the job left them."""
        entry = self.read(job)
        if entry is None:
            return False
        # Sizes and times first: for the hashes every sidecar has to be read.
        if entry["signature"] == self.signature(job):
            return True
        have_sidecars = all(has_sidecar(path) or str(path) in (entry.get("outputs") or {}) for path in job.outputs)
        return have_sidecars and entry["content"] == self.content(job)

    def seconds(self, job: Job) -> float | None:
        """Duration of the job, where it was run."""
        return (self.read(job) or {}).get("seconds")

    def read(self, job: Job) -> dict | None:
        """The job's entry; None where there is none or it is damaged."""
        return self._read(f"{self.folder}/{job.id}.json")

    def put(self, job: Job, *, seconds: float) -> None:
        """Record that the job is done.

        Raises UserError where an output is missing, or an input or output cannot be read.
        """
        if missing := [paths.relative(path) for path in job.outputs if not path.exists()]:
            raise UserError(f"{job.key} ended without an error, but did not write {', '.join(missing)}")
        if damaged := [paths.relative(path) for path in (*job.inputs, *job.outputs) if self._hash(path) is None]:
            raise UserError(f"{job.key} ended without an error, but {', '.join(damaged)} cannot be read; see --verify")
        entry = {"content": self.content(job), "signature": self.signature(job), "seconds": seconds}
        # The expected content of outputs without a sidecar is recorded here.
        entry["outputs"] = {str(path): self._hash(path) for path in job.outputs if not has_sidecar(path)}
        write_json(self.path(job), entry)

    def content(self, job: Job) -> str:
        return digest([self._hash(path) for path in (*job.inputs, *job.outputs)])

    def signature(self, job: Job) -> str:
        return digest([self._signature(str(path)) for path in (*job.inputs, *job.outputs)])


def read_entry(name: str) -> dict | None:
    try:
        # Strings, not paths, here and below: half a million files of a large study are looked at in seconds.
        entry = read_json(Path(name)) if os.path.isfile(name) else None
    except UserError:
        return None
    return entry if isinstance(entry, dict) and {"content", "signature"} <= entry.keys() else None


def readable_hash(path: Path) -> str | None:
    """Hash of the content; None where the artifact is missing or its sidecar is damaged."""
    try:
        return content_hash(path)
    except (UserError, KeyError, TypeError, AttributeError):
        return None


def signature_of(name: str) -> str:
    """Size and time of a file and of its sidecar, or of all files of a folder; empty where it is missing."""
    try:
        found = os.stat(name)
    except FileNotFoundError:
        return ""
    if not stat.S_ISDIR(found.st_mode):
        sidecar = "" if name.endswith("meta.json") else signature_of(name + SIDECAR_ENDING)
        return f"{found.st_size},{found.st_mtime_ns};{sidecar}"
    with os.scandir(name) as entries:
        inside = sorted(entry.name for entry in entries)
    return "".join(f"{entry}:{signature_of(f'{name}/{entry}')}" for entry in inside)
