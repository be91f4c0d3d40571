"""What this project may replace: what it wrote itself, and nothing else, whatever the options.

A folder is its own where it has a sidecar that lists every file in it; a file where it has a sidecar, or is a version
that its marker names (markers.py).
"""

import os
import shutil
import stat
from pathlib import Path

from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.hashing import NO_CONTENT
from open_instruct.common.json_files import read_json
from open_instruct.common.locks import lock_beside, require_own_lock
from open_instruct.common.markers import (
    is_marker,
    is_noted,
    lines_of,
    marker_beside,
    marker_inside,
    note_version,
    write_marker,
)
from open_instruct.common.sidecars import find_sidecar, has_sidecar, sidecar_path

MOVE_AWAY = "give another output, or move it away"


def replaced_version(target: Path) -> Path:
    """Where the old version of a folder is while the new one takes its place."""
    return target.with_name(f".{target.name}.replaced")


def require_replaceable(target: Path) -> None:
    """Raises UserError unless `target` can be written, and what stands in its place was written by this project."""
    require_writable(target.parent)
    if target.is_dir():
        require_own_folder(target.resolve())
    else:
        require_own_file(target)
    require_own_leftovers(target)


def require_writable(folder: Path) -> None:
    """Raises UserError where `folder` is not, and cannot become, a folder that one may write in."""
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise UserError(f"{existing} is a file, expected a folder; give another output")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(
            f"{existing}: Permission denied; give an output elsewhere, or set base_dir and data_dir to folders you may "
            "write in"
        )


def require_own_folder(folder: Path) -> None:
    special = [paths.REPOSITORY, paths.base_dir(), paths.data_dir(), Path.cwd(), Path("~").expanduser().resolve()]
    if any(one.is_relative_to(folder) for one in special) or os.path.ismount(folder):
        raise UserError(f"{folder} cannot be an output, which is replaced as a whole; give a folder inside it")
    if foreign := foreign_files(folder):
        raise UserError(
            f"{folder} has {listed(foreign)}, not written by this project, which replaces no such file; {MOVE_AWAY}"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: Permission denied; give another output, or have its owner change that")


def foreign_files(folder: Path) -> list[str]:
    """Files and links in `folder`, at any depth, that this project did not write."""
    own = own_files(folder)
    # A link at the place of a file that was written is a user's.
    return [name for name in names_in(folder) if name not in own or (folder / name).is_symlink()]


def own_files(folder: Path) -> set[str]:
    """The files that the sidecar or the marker of `folder` lists, and these two themselves."""
    own = {"meta.json", *sidecar["files"]} if (sidecar := find_sidecar(folder)) else set[str]()
    if is_marker(marker := marker_inside(folder)):
        own |= {marker.name, *lines_of(marker)}
    return own


def names_in(folder: Path) -> list[str]:
    """Everything but folders, at any depth, relative to `folder`."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(str(path.relative_to(folder)) for path in found)


def listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more files" if len(names) > 3 else "")


def require_own_file(file: Path) -> None:
    sidecar = sidecar_path(file)
    if os.path.lexists(sidecar) and not has_sidecar(file):
        raise UserError(f"{sidecar} stands in the place of a sidecar and is none of this project; {MOVE_AWAY}")
    if os.path.lexists(file) and not has_sidecar(file) and not is_noted(file):
        raise UserError(f"{file} was not written by this project, which replaces no such file; {MOVE_AWAY}")


def remove_own_file(file: Path) -> None:
    """Remove a file and its sidecar, where there is one.  Raises UserError where it is not this project's own."""
    require_own_file(file)
    file.unlink(missing_ok=True)
    sidecar_path(file).unlink(missing_ok=True)


def require_own_leftovers(target: Path) -> None:
    """Raises UserError where something stands in the place of a marker or an old version, and is none."""
    require_own_lock(lock_beside(target))
    if not is_marker(marker_beside(target)):
        require_own_working_folder(marker_beside(target))
    require_own_working_folder(replaced_version(target))


def require_own_working_folder(folder: Path, *, cure: str = MOVE_AWAY) -> None:
    """Raises UserError unless `folder`, which this project needs for a while, is missing, empty, or its own."""
    if not os.path.lexists(folder):
        return
    is_folder = folder.is_dir() and not folder.is_symlink()
    if not is_folder or not (is_marker(marker_inside(folder)) or has_sidecar(folder) or not names_in(folder)):
        raise UserError(f"{folder} was not written by this project, which needs the place; {cure}")


def remove_own_folder(folder: Path) -> None:
    """Remove the files that the sidecar or the marker of `folder` lists, and the folder if nothing else is in it."""
    # Sidecar and marker last: until then they say which files were written here.
    for name in own_files(folder) - set(NO_CONTENT):
        (folder / name).unlink(missing_ok=True)
    for path in sorted((p for p in folder.rglob("*") if p.is_dir() and not p.is_symlink()), reverse=True):
        if not any(path.iterdir()):
            path.rmdir()
    if left := set(names_in(folder)) - set(NO_CONTENT):
        print(f"note: kept {folder}, which has {listed(sorted(left))}")
    else:
        shutil.rmtree(folder)


def mark_as_own(folder: Path) -> None:
    """Let the marker of `folder` list the files that are in it: they were all written by this project."""
    write_marker(marker_inside(folder), sorted(set(names_in(folder)) - set(NO_CONTENT)))


def mark_as_damaged(artifact: Path) -> None:
    """Remove the sidecar of an output, so that it is made again; its marker lets the next run replace it."""
    sidecar, path = find_sidecar(artifact), sidecar_path(artifact)
    if sidecar is None and (not path.is_file() or is_json_object(path)):
        return  # not of this project
    if artifact.is_dir():
        names = set(sidecar["files"]) if sidecar else set(names_in(artifact)) - set(NO_CONTENT)
        write_marker(marker_inside(artifact), sorted(names))
    elif artifact.exists():
        write_marker(marker_beside(artifact))
        note_version(artifact)
    path.unlink()


def is_json_object(path: Path) -> bool:
    try:
        return isinstance(read_json(path), dict)
    except UserError:
        return False


def remove_replaced_version(target: Path) -> None:
    """Remove the old version of a folder, or put it back where the new one is missing."""
    old = replaced_version(target)
    if not old.exists():
        return
    if not target.exists():
        old.rename(target)
        return
    remove_own_folder(old)


def follow_umask(path: Path) -> None:
    """Give a file, or a folder with everything in it, the mode of newly made ones: some libraries give their own."""
    umask = current_umask()
    for one in (path, *path.rglob("*")) if path.is_dir() else (path,):
        if one.is_symlink():
            continue
        mode = one.stat().st_mode
        # A folder hands its setgid bit down, which keeps the files of a group in the group.
        wanted = 0o777 & ~umask | mode & stat.S_ISGID if stat.S_ISDIR(mode) else 0o666 & ~umask
        if stat.S_IMODE(mode) != wanted:
            one.chmod(wanted)


def current_umask() -> int:
    status = Path("/proc/self/status")
    if status.is_file():  # reading it otherwise means setting it, which other threads would notice
        for line in status.read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    umask = os.umask(0o022)
    os.umask(umask)
    return umask
