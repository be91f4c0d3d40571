"""Markers of unfinished outputs: they tell what a killed run of this project left from what a user put there.

.{name}.unfinished        beside a file: the versions of it that unfinished runs wrote, each as inode, size and time
.{name}.unfinished/       beside a folder: the folder in which the new version is made
{folder}/.unfinished      in every folder that is not complete: the names of files in it that may be replaced
"""

import os
from collections.abc import Iterable
from pathlib import Path

TEXT = "unfinished output of pretraining-vs-finetuning: the next run replaces it\n"
ENDING = ".unfinished"


def marker_beside(path: Path) -> Path:
    return path.with_name(f".{path.name}{ENDING}")


def marker_inside(folder: Path) -> Path:
    return folder / ENDING


def is_marker(path: Path) -> bool:
    """Whether `path` is a marker of this project. A killed run, or `touch`, may leave an empty one."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return TEXT.encode().startswith(file.read(len(TEXT)))


def write_marker(marker: Path, lines: Iterable[str] = ()) -> None:
    marker.write_text(TEXT + "".join(f"{line}\n" for line in lines), encoding="utf-8")


def lines_of(marker: Path) -> set[str]:
    return set(marker.read_text(encoding="utf-8", errors="surrogateescape").splitlines()[1:])


def note_version(path: Path, written: Path | None = None) -> None:
    """Note the file at `path`, or `written`, which is about to replace it, where `path` has a marker."""
    marker = marker_beside(path)
    if is_marker(marker):
        with marker.open("a", encoding="utf-8") as file:
            file.write(f"\n{version_of(written or path)}\n")


def is_noted(path: Path) -> bool:
    """Whether the file at `path` is a version that its marker names."""
    marker = marker_beside(path)
    return is_marker(marker) and path.is_file() and version_of(path) in lines_of(marker)


def version_of(path: Path) -> str:
    """Inode, size and time: a file that replaces this one differs in at least one of them."""
    found = os.lstat(path)
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns}"
