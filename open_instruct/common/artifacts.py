"""Artifacts: output files and folders with a sidecar of their arguments, inputs, hashes and provenance.

The sidecar of a file X is `X.meta.json`, of a folder `X/meta.json`. It is written last and atomically: a sidecar that
matches its artifact means that the artifact is complete.
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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json, write_json
from open_instruct.common.locks import LockHeldError, hold

SIDECAR_ENDING = ".meta.json"
"""Appended to the name of a file; of a folder it is the file `meta.json` inside."""
RECORDED_PACKAGES = ("torch", "transformers", "datasets", "accelerate", "peft", "ai2-olmo", "numpy")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Hash of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sidecar_path(artifact: Path) -> Path:
    return artifact / "meta.json" if artifact.is_dir() else Path(f"{artifact}{SIDECAR_ENDING}")


def read_sidecar(artifact: Path) -> dict[str, Any]:
    """Raises UserError where there is none: this project did not make the artifact, or did not complete it."""
    if not sidecar_path(artifact).is_file():
        raise UserError(f"{artifact}: no sidecar {sidecar_path(artifact).name}; it is unfinished, or not made here")
    return read_json(sidecar_path(artifact))


def content_hash(artifact: Path) -> str:
    """Hash of a file's or folder's content. Files that still have the recorded size and time are not read again.

    Raises UserError where there is no such file or folder.
    """
    if not artifact.exists():
        raise UserError(f"{artifact}: no such file or folder; run the stage that makes it")
    recorded = read_json(sidecar_path(artifact)).get("files", {}) if sidecar_path(artifact).is_file() else {}
    return digest_of_files(describe_files(artifact, recorded))


def digest_of_files(files: Mapping[str, Mapping[str, Any]]) -> str:
    return digest({name: entry["sha256"] for name, entry in files.items()})


def describe_files(artifact: Path, recorded: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """name -> {"sha256", "bytes", "mtime_ns"} of every file of an artifact except sidecars.

    Files that still have the size and time that are `recorded` keep the recorded hash.
    """
    found = sorted(p for p in artifact.rglob("*") if p.is_file()) if artifact.is_dir() else [artifact]
    names = {str(p.relative_to(artifact)) if artifact.is_dir() else p.name: p for p in found if p.name != "meta.json"}

    def describe(name: str) -> dict[str, Any]:
        stat, known = names[name].stat(), (recorded or {}).get(name, {})
        is_unchanged = (known.get("bytes"), known.get("mtime_ns")) == (stat.st_size, stat.st_mtime_ns)
        content = known["sha256"] if is_unchanged else sha256(names[name])
        return {"sha256": content, "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}

    if len(names) == 1:  # starting threads takes longer than comparing one file's size and time
        return {name: describe(name) for name in names}
    # Hashing releases the interpreter lock: a model's files are read on all cores.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(names, pool.map(describe, names), strict=True))


@dataclass(frozen=True)
class Artifact:
    """One output of one stage, and everything that affects its content."""

    path: Path
    """The file or folder that the stage writes."""
    arguments: Mapping[str, Any]
    """Arguments that affect the content, as JSON values. An existing output of other arguments is refused."""
    inputs: Mapping[str, Path] = field(default_factory=dict)
    """Files and folders that are read, by role. An output whose inputs changed is made again."""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """The fields of its Variant, its evaluation set, format and so on."""

    def is_done(self, *, overwrite: bool = False) -> bool:
        """Whether the artifact is complete, and was made from these inputs with these arguments.

        Raises UserError where it was made with other arguments, unless `overwrite`.
        """
        if overwrite or not self.path.exists() or not sidecar_path(self.path).is_file():
            return False
        meta = read_sidecar(self.path)
        found, expected = meta["arguments"], json.loads(json.dumps(dict(self.arguments)))
        differing = [key for key in sorted({*found, *expected}) if found.get(key) != expected.get(key)]
        if differing:
            changes = "; ".join(f"{k} was {found.get(k)!r}, now {expected.get(k)!r}" for k in differing)
            raise UserError(f"{self.path} was made with other arguments: {changes}; add --overwrite to make it again")
        is_complete = content_hash(self.path) == digest_of_files(meta["files"])
        return is_complete and meta["inputs"] == self.input_hashes()

    def input_hashes(self) -> dict[str, str]:
        """Hash of the content of every input, by role."""
        return {role: content_hash(path) for role, path in self.inputs.items()}

    @contextmanager
    def making(
        self, *, is_folder: bool = False, hashed: Mapping[str, Mapping[str, Any]] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Make the artifact inside the block. Entries added to the yielded dict go into the sidecar, written last.

        hashed  filled by the block: `describe_files` entries of files that it hashed itself; those that still have this
                size and time are not read again

        Raises UserError where another process is making the artifact.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(hold(self.path.with_name(f".{self.path.name}.lock"), wait=False))
            except LockHeldError as error:
                message = f"{self.path} is being written by {error}; wait until that is done and run this again"
                raise UserError(message) from error
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
                    "files": describe_files(self.path, hashed),
                    **facts,
                    **provenance(),
                    "seconds": round(time.monotonic() - started, 2),
                },
            )


def provenance() -> dict[str, Any]:
    """How something was made: commit, package versions, host, time, peak resident memory."""
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
