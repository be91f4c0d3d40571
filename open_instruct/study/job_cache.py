"""What of a study is done: after each job the hashes of all that it read and wrote, compared before it is run again.

The stages know this themselves; the stamps spare starting a process to ask them. A stamp is shared by all studies in
which the job is the same.
"""

import os
import stat
from pathlib import Path

from open_instruct.common import paths
from open_instruct.common.artifacts import (
    SIDECAR_ENDING,
    content_hash,
    digest,
    sidecar_path,
)
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json, write_json
from open_instruct.study.plan import Job


class Stamps:
    """One object asks the disk for each file once: make a new one to see what has changed since."""

    def __init__(self) -> None:
        self.folder = paths.base_dir() / "output" / "jobs"
        self._stamps: dict[str, dict | None] = {}
        self._hashes: dict[Path, str | None] = {}
        self._signatures: dict[Path, str] = {}

    def path(self, job: Job) -> Path:
        return self.folder / f"{job.id}.json"

    def is_done(self, job: Job) -> bool:
        """Whether all that the job read and wrote is as the job left it."""
        found = self.read(job)
        if found is None:
            return False
        # Sizes and times first: hashes need every sidecar to be read.
        if found["signature"] == self.signature(job):
            return True
        return all(p.exists() for p in job.outputs) and found["content"] == self.content(job)

    def seconds(self, job: Job) -> float | None:
        """How long the job took, where it was run."""
        return (self.read(job) or {}).get("seconds")

    def read(self, job: Job) -> dict | None:
        """What was written down of the job; None where nothing was, or where it cannot be read any more."""
        if job.id not in self._stamps:
            self._stamps[job.id] = self._read(job)
        return self._stamps[job.id]

    def _read(self, job: Job) -> dict | None:
        try:
            found = read_json(self.path(job)) if os.path.isfile(f"{self.folder}/{job.id}.json") else None
        except UserError:
            return None
        return found if isinstance(found, dict) and {"content", "signature"} <= found.keys() else None

    def put(self, job: Job, *, seconds: float | None) -> None:
        """Write down that the job is done. `seconds`: None where it was found done.

        Raises UserError where the job left out an output.
        """
        if missing := [paths.relative(path) for path in job.outputs if not path.exists()]:
            raise UserError(f"{job.key} ended well, but did not write {', '.join(missing)}")
        if damaged := [paths.relative(path) for path in (*job.inputs, *job.outputs) if self._hash(path) is None]:
            raise UserError(f"{job.key} ended well, but {', '.join(damaged)} cannot be read; --verify says why")
        stamp = {"content": self.content(job), "signature": self.signature(job), "seconds": seconds}
        # What has no sidecar is told here what it should be.
        bare = {str(path): self._hash(path) for path in job.outputs if not sidecar_path(path).is_file()}
        self._stamps[job.id] = stamp | {"outputs": bare}
        write_json(self.path(job), self._stamps[job.id])

    def content(self, job: Job) -> str:
        return digest([self._hash(path) for path in (*job.inputs, *job.outputs)])

    def signature(self, job: Job) -> str:
        return digest([self._signature(path) for path in (*job.inputs, *job.outputs)])

    def _hash(self, path: Path) -> str | None:
        if path not in self._hashes:
            try:
                self._hashes[path] = content_hash(path)
            except (UserError, KeyError, TypeError, AttributeError):  # not there, or its sidecar is damaged
                self._hashes[path] = None
        return self._hashes[path]

    def _signature(self, path: Path) -> str:
        if path not in self._signatures:
            self._signatures[path] = signature_of(str(path))
        return self._signatures[path]


def signature_of(name: str) -> str:
    """Size and time of a file and of its sidecar, or of all files of a folder; of a missing one, nothing.

    Names instead of paths: half a million files of a large study are asked for in seconds.
    """
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
