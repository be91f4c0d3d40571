"""Files one can trust: JSON lines with named errors, atomic writes, hashes, and sidecars.

Every artifact X has a sidecar: `X.meta.json`, or `meta.json` inside where X is a folder. It is written last and
atomically, so a sidecar that matches its artifact means the artifact is done.
"""

import hashlib
import json
import os
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json, write_json
from open_instruct.common.locks import LockHeldError, hold

SIDECAR_ENDING = ".meta.json"
"""After the name of a file; a folder has `meta.json` inside."""
RECORDED_PACKAGES = ("torch", "transformers", "datasets", "accelerate", "peft", "ai2-olmo", "numpy")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """A hash of any JSON value that does not depend on the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sidecar_path(artifact: Path) -> Path:
    return artifact / "meta.json" if artifact.is_dir() else Path(f"{artifact}{SIDECAR_ENDING}")


def read_sidecar(artifact: Path) -> dict[str, Any]:
    """Raises UserError where `artifact` has none: it was not made by this project, or its making was cut short."""
    if not sidecar_path(artifact).is_file():
        raise UserError(f"{artifact}: no sidecar {sidecar_path(artifact).name}; it is unfinished, or not made here")
    return read_json(sidecar_path(artifact))


def content_hash(artifact: Path) -> str:
    """Hash of a file's or folder's content. Files whose sidecar still fits by size and time are not read again.

    Raises UserError where there is no such file or folder.
    """
    if not artifact.exists():
        raise UserError(f"{artifact}: no such file or folder; run the stage that makes it")
    recorded = read_json(sidecar_path(artifact)).get("files", {}) if sidecar_path(artifact).is_file() else {}
    return digest({entry["name"]: entry["sha256"] for entry in describe_files(artifact, recorded)})


def describe_files(artifact: Path, recorded: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Name, size, time and sha256 of every file of an artifact, sidecars aside."""
    found = sorted(p for p in artifact.rglob("*") if p.is_file()) if artifact.is_dir() else [artifact]

    def describe(path: Path) -> dict[str, Any]:
        name = str(path.relative_to(artifact)) if artifact.is_dir() else path.name
        stat = path.stat()
        known = (recorded or {}).get(name)
        fits = known and (known["bytes"], known["mtime_ns"]) == (stat.st_size, stat.st_mtime_ns)
        content = known["sha256"] if known and fits else sha256(path)
        return {"name": name, "sha256": content, "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}

    described = [path for path in found if path.name != "meta.json"]
    if len(described) == 1:  # starting threads takes longer than looking at one file's time
        return [describe(described[0])]
    # Hashing gives other threads the processor: a model's files are read on all cores.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(describe, described))


@dataclass(frozen=True)
class Artifact:
    """One output of one stage, and what it depends on."""

    path: Path
    """The file or folder that the stage writes."""
    arguments: Mapping[str, Any]
    """What decides the content, as JSON values. An existing output made by others is refused."""
    inputs: Mapping[str, Path] = field(default_factory=dict)
    """Files and folders that were read, by role. An output whose inputs changed is made again."""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """What it is: the fields of its Variant, its evaluation set, format and so on."""

    def is_done(self, *, overwrite: bool = False) -> bool:
        """Whether the artifact is there, whole, and made from these inputs by these arguments.

        Raises UserError where other arguments made it, unless `overwrite`.
        """
        if overwrite or not self.path.exists() or not sidecar_path(self.path).is_file():
            return False
        meta = read_sidecar(self.path)
        found, expected = meta["arguments"], json.loads(json.dumps(dict(self.arguments)))
        differing = [key for key in sorted({*found, *expected}) if found.get(key) != expected.get(key)]
        if differing:
            changes = "; ".join(f"{k} was {found.get(k)!r}, now {expected.get(k)!r}" for k in differing)
            raise UserError(f"{self.path} was made by other arguments: {changes}; add --overwrite to make it again")
        is_whole = content_hash(self.path) == digest({name: e["sha256"] for name, e in meta["files"].items()})
        return is_whole and meta["inputs"] == self.input_hashes()

    def input_hashes(self) -> dict[str, str]:
        """Hash of the content of every input, by role."""
        return {role: content_hash(path) for role, path in self.inputs.items()}

    @contextmanager
    def making(
        self, *, is_folder: bool = False, hashed: Mapping[str, Mapping[str, Any]] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Make the artifact inside the block; facts put into the yielded dict go into the sidecar, written last.

        `hashed`, which the block fills: {"sha256", "bytes", "mtime_ns"} of files, by name, that it hashed itself;
        those that still have this size and time are not read again. Raises UserError where another process is
        making it.
        """
        with self._sole_writer():
            yield from self._make(is_folder=is_folder, hashed={} if hashed is None else hashed)

    @contextmanager
    def _sole_writer(self) -> Iterator[None]:
        try:
            with hold(self.path.with_name(f".{self.path.name}.lock"), wait=False):
                yield
        except LockHeldError as error:
            raise UserError(
                f"{self.path} is being written by {error}; wait until that is done and run this again"
            ) from error

    def _make(self, *, is_folder: bool, hashed: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        started = time.monotonic()
        sidecar_path(self.path).unlink(missing_ok=True)
        if is_folder and self.path.exists():
            shutil.rmtree(self.path)
        (self.path if is_folder else self.path.parent).mkdir(parents=True, exist_ok=True)
        input_hashes = self.input_hashes()
        facts: dict[str, Any] = {}
        yield facts
        write_json(
            sidecar_path(self.path),
            {
                "identity": dict(self.identity),
                "arguments": dict(self.arguments),
                "inputs": input_hashes,
                "input_paths": {role: str(path) for role, path in self.inputs.items()},
                "files": {e.pop("name"): e for e in describe_files(self.path, hashed)},
                **facts,
                **provenance(),
                "seconds": round(time.monotonic() - started, 2),
            },
        )


def provenance() -> dict[str, Any]:
    """Where and with what something was made: commit, versions, host, time, peak resident memory."""
    return {
        "git_commit": git_commit(),
        "versions": {name: package_version(name) for name in RECORDED_PACKAGES},
        "host": socket.gethostname(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


@cache
def git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
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
