"""Hashes of files, folders and JSON values. A file that still has its recorded size and time is not read again."""

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

NO_CONTENT = ("meta.json", ".unfinished")
"""Files at the top of a folder that are about its content, and no part of it: its sidecar and its marker."""
CHUNK_BYTES = 2**18
"""Size in which files are read: as hashlib.file_digest does."""


def sha256(path: Path) -> str:
    return file_hash(path, "sha256")


def file_hash(path: Path, algorithm: str) -> str:
    # hashlib.file_digest needs Python 3.11.
    found, buffer = hashlib.new(algorithm), memoryview(bytearray(CHUNK_BYTES))
    with path.open("rb", buffering=0) as file:
        while num_bytes := file.readinto(buffer):
            found.update(buffer[:num_bytes])
    return found.hexdigest()


def digest(value: Any) -> str:
    """Hash of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def digest_of_files(files: Mapping[str, Mapping[str, Any]]) -> str:
    return digest({name: entry["sha256"] for name, entry in files.items()})


def describe_files(artifact: Path, recorded: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """name -> {"sha256", "bytes", "mtime_ns"} of every file of an artifact except its sidecar.

    Files that still have the size and time that are `recorded` keep the recorded hash.
    """
    if artifact.is_dir():
        found = sorted(path for path in artifact.rglob("*") if path.is_file())
        names = {name: p for p in found if (name := str(p.relative_to(artifact))) not in NO_CONTENT}
    else:
        names = {artifact.name: artifact}

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
