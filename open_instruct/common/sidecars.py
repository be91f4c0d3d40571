"""Sidecars, which say what an artifact is and how it was made, and hashes of the content of artifacts.

The sidecar of a file X is `X.meta.json`, of a folder `X/meta.json`. It is written last and atomically: a sidecar that
matches its artifact means that the artifact is complete.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.hashing import describe_files, digest, digest_of_files
from open_instruct.common.json_files import read_json, write_json

SIDECAR_ENDING = ".meta.json"
"""Appended to the name of a file; of a folder it is the file `meta.json` inside."""
FIELDS = {"identity", "arguments", "inputs", "files"}
"""Of every sidecar. A file of that name without them is a user's own."""


def sidecar_path(artifact: Path) -> Path:
    return artifact / "meta.json" if artifact.is_dir() else Path(f"{artifact}{SIDECAR_ENDING}")


def find_sidecar(artifact: Path) -> dict[str, Any] | None:
    """The sidecar; None where there is none, or a file of a user's with its name."""
    path = sidecar_path(artifact)
    try:
        found = read_json(path) if path.is_file() else None
    except UserError:
        return None
    return found if isinstance(found, dict) and found.keys() >= FIELDS else None


def has_sidecar(artifact: Path) -> bool:
    return find_sidecar(artifact) is not None


def read_sidecar(artifact: Path) -> dict[str, Any]:
    """Raises UserError where there is none: this project did not make the artifact, or did not complete it."""
    path = sidecar_path(artifact)
    if not path.is_file():
        raise UserError(f"{artifact}: no sidecar {path.name}; it is unfinished, or not made here")
    found = read_json(path)
    if not isinstance(found, dict) or not found.keys() >= FIELDS:
        raise UserError(f"{path} is no sidecar of this project; expected {', '.join(sorted(FIELDS))} in it")
    return found


def content_hash(artifact: Path) -> str:
    """Hash of a file's or folder's content. Files that still have the recorded size and time are not read again.

    Raises UserError where there is no such file or folder.
    """
    if not artifact.exists():
        raise UserError(f"{artifact}: no such file or folder; run the stage that makes it")
    if sidecar := find_sidecar(artifact):
        return digest_of_files(describe_files(artifact, sidecar["files"]))
    return digest_of_files(describe_foreign(artifact) if artifact.is_dir() else describe_files(artifact))


def describe_foreign(folder: Path) -> Mapping[str, Any]:
    """`describe_files` of a folder that this project did not make. Its hashes are kept in output/hashes/."""
    location = str(folder.resolve())
    cache = paths.base_dir() / "output" / "hashes" / f"{digest(location)[:24]}.json"
    known = read_cached(cache, location)
    files = describe_files(folder, known)
    if files != known and (known is not None or not cache.exists()):
        with suppress(OSError):  # who may not write here reads the folder again
            write_json(cache, {"folder": location, "files": files})
    return files


def read_cached(cache: Path, location: str) -> dict[str, Any] | None:
    try:
        found = read_json(cache)
    except (UserError, OSError):
        return None
    is_cache = isinstance(found, dict) and found.get("folder") == location and isinstance(found.get("files"), dict)
    return found["files"] if is_cache else None
