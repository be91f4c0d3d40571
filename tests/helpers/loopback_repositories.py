"""Repositories of the loopback Hub: commits, refs and files, in the Hub's listing format."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LFS_SUFFIXES = (".parquet", ".bin", ".pt", ".safetensors", ".gz", ".zip", ".arrow")


@dataclass
class Commit:
    """The files of a repository at one commit: path -> content."""

    id: str
    files: dict[str, bytes]


@dataclass
class Repository:
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    """Full name (`refs/heads/main`, `refs/tags/v1`, `refs/convert/parquet`) -> commit id."""

    def commit(self, revision: str) -> Commit | None:
        """By commit id, full ref, branch or tag."""
        for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            revision = self.refs.get(name, revision)
        return self.commits.get(revision)


def entries(commit: Commit) -> list[dict[str, Any]]:
    """Every file and folder of a commit, in the format of tree listings."""
    folders = sorted({str(parent) for path in commit.files for parent in Path(path).parents} - {"."})
    listed = [{"type": "directory", "path": f, "oid": git_id(f.encode()), "size": 0} for f in folders]
    listed += [{"type": "file", "path": path} | file_entry(path, commit.files[path]) for path in sorted(commit.files)]
    return listed


def inside(path: str, folder: str, *, recursive: bool) -> bool:
    parents = [str(parent) for parent in Path(path).parents]
    return (folder or ".") in (parents if recursive else parents[:1])


def file_entry(path: str, content: bytes) -> dict[str, Any]:
    """Size and ids of a file in the Hub's format; some kinds of files are in LFS."""
    if not path.endswith(LFS_SUFFIXES):
        return {"size": len(content), "oid": git_id(content)}
    sha256 = hashlib.sha256(content).hexdigest()
    lfs = {"oid": sha256, "sha256": sha256, "size": len(content), "pointerSize": 134}
    return {"size": len(content), "oid": git_id(sha256.encode()), "lfs": lfs}


def git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
