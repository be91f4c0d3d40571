"""Artifacts: output files and folders with a sidecar of their arguments, inputs, hashes and provenance.

A folder is made in a hidden folder beside its place and renamed when it is complete; a file is written by
`atomic_write()`. Neither replaces anything that this project did not write (ownership.py).
"""

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from open_instruct.common import ownership, paths
from open_instruct.common.errors import UserError
from open_instruct.common.hashing import describe_files
from open_instruct.common.json_files import remove_temporaries, write_json
from open_instruct.common.locks import LockHeldError, hold, lock_beside
from open_instruct.common.markers import is_marker, marker_beside, marker_inside, note_version, write_marker
from open_instruct.common.provenance import provenance
from open_instruct.common.sidecars import content_hash, find_sidecar, sidecar_path

CHOSEN_INPUTS = ("tokenizer", "config", "validation_file")
"""Roles of inputs that an option adds: with and without it are two outputs, and not one whose inputs changed."""


def has_files(artifact: Path, recorded: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether all these files are as they were written; others, which a user put into a folder, do not matter."""
    found = describe_files(artifact, recorded)
    return all(found.get(name, {}).get("sha256") == entry["sha256"] for name, entry in recorded.items())


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

        Raises UserError where it was made with other arguments or from other files, unless `overwrite`; and where it
        has to be made, but something stands in its place that this project did not write.
        """
        meta = None if overwrite or not self.path.exists() else find_sidecar(self.path)
        if meta is not None:
            inputs = self.require_same(meta)
            if meta["inputs"] == inputs and has_files(self.path, meta["files"]):
                return True
        self.require_replaceable()
        return False

    def require_no_clash(self) -> None:
        """Raises UserError where another output or a file of the user's is in the place of this one."""
        meta = find_sidecar(self.path) if self.path.exists() else None
        if meta is not None:
            self.require_same(meta)
        self.require_replaceable()

    def require_same(self, meta: Mapping[str, Any]) -> dict[str, str]:
        """Hashes of the inputs now.  Raises UserError where `meta`, the sidecar that is there, is another output's."""
        self.require_same_arguments(meta)
        inputs = self.input_hashes()
        self.require_same_files(meta, inputs)
        return inputs

    def require_same_arguments(self, meta: Mapping[str, Any]) -> None:
        found, expected = meta["arguments"], json.loads(json.dumps(dict(self.arguments)))
        differing = [key for key in sorted({*found, *expected}) if found.get(key) != expected.get(key)]
        if differing:
            changes = "; ".join(f"{k} was {found.get(k)!r}, now {expected.get(k)!r}" for k in differing)
            raise UserError(f"{self.path} was made with other arguments: {changes}; add --overwrite to make it again")

    def require_same_files(self, meta: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
        """Files that changed in their place make the output outdated; others at another place make another output."""
        before = meta.get("input_paths", {})
        now = {role: paths.relative(path) for role, path in self.inputs.items()}
        moved = {
            role
            for role in before.keys() & now.keys()
            if paths.absolute(before[role]) != self.inputs[role].resolve() and meta["inputs"].get(role) != inputs[role]
        }
        chosen = {role for role in CHOSEN_INPUTS if (role in before) != (role in now)}
        differing = [f"{role} was {before.get(role)}, now {now.get(role)}" for role in sorted(moved | chosen)]
        if differing:
            raise UserError(
                f"{self.path} was made from other files: {'; '.join(differing)}; give another output or name, or add "
                "--overwrite to make it again"
            )

    def require_replaceable(self) -> None:
        """Raises UserError where the output overlaps an input, cannot be written, or is not this project's own."""
        output = self.path.resolve()
        for path in self.inputs.values():
            source = path.resolve()
            if output == source or output in source.parents or source in output.parents:
                raise UserError(f"the output {self.path} and the input {path} overlap; give another output")
        ownership.require_replaceable(self.path)

    def input_hashes(self) -> dict[str, str]:
        """Hash of the content of every input, by role."""
        return {role: content_hash(path) for role, path in self.inputs.items()}

    @contextmanager
    def making(self) -> Iterator[dict[str, Any]]:
        """Make the file `path` inside the block. Entries added to the yielded dict go into the sidecar, written last.

        Raises UserError where another process is making it, or something stands in its place that is not this
        project's own.
        """
        with self.locked(self.path) as started:
            if self.path.is_dir():
                raise UserError(f"{self.path} is a folder, expected a file; give another output, or move it away")
            marker = marker_beside(self.path)
            if is_marker(marker):
                remove_temporaries(self.path)
            elif marker.exists():  # a folder of this name was being made
                shutil.rmtree(marker)
            # The versions that earlier runs noted, and the present one, are this project's own.
            if not marker.exists():
                write_marker(marker)
            if os.path.lexists(self.path):
                note_version(self.path)
            sidecar_path(self.path).unlink(missing_ok=True)
            input_hashes, facts = self.input_hashes(), dict[str, Any]()
            try:
                yield facts
            except BaseException:
                if self.path.exists():
                    note_version(self.path)
                else:
                    marker.unlink()
                raise
            ownership.follow_umask(self.path)
            self.write_sidecar(sidecar_path(self.path), input_hashes, describe_files(self.path), facts, started)
            marker.unlink()

    @contextmanager
    def making_folder(
        self, *, hashed: Mapping[str, Mapping[str, Any]] | None = None
    ) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Make the folder `path`: yields the folder to write into, which takes its place after the block, and a dict
        for further entries of the sidecar.

        hashed  filled by the block: `describe_files` entries of files that it hashed itself; those that still have this
                size and time are not read again

        Raises UserError as `making()` does.
        """
        target = self.path.resolve()
        with self.locked(target) as started:
            if target.exists() and not target.is_dir():
                raise UserError(f"{target} is a file, expected a folder; give another output, or move it away")
            ownership.remove_replaced_version(target)
            unfinished = marker_beside(target)
            if unfinished.is_dir():
                shutil.rmtree(unfinished)
            else:
                unfinished.unlink(missing_ok=True)
            unfinished.mkdir()
            write_marker(marker_inside(unfinished))
            try:
                input_hashes, facts = self.input_hashes(), dict[str, Any]()
                yield unfinished, facts
                ownership.follow_umask(unfinished)
                files = describe_files(unfinished, hashed)
                self.write_sidecar(unfinished / "meta.json", input_hashes, files, facts, started)
                marker_inside(unfinished).unlink()
                self.put_into_place(unfinished, target)
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise

    def put_into_place(self, unfinished: Path, target: Path) -> None:
        ownership.require_replaceable(target)  # a user may have put something there meanwhile
        if target.exists():
            old = target.rename(ownership.replaced_version(target))
            try:
                unfinished.rename(target)
            except OSError:
                old.rename(target)
                raise
            ownership.remove_replaced_version(target)
        else:
            unfinished.rename(target)

    @contextmanager
    def locked(self, target: Path) -> Iterator[float]:
        """Hold the lock of the output. Yields the time at which it was acquired."""
        self.require_replaceable()
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{target.parent} cannot be made: {error.strerror}; give another output") from error
        try:
            with hold(lock_beside(target), wait=False):
                self.require_replaceable()  # another process may have made something meanwhile
                yield time.monotonic()
        except LockHeldError as error:
            raise UserError(
                f"{self.path} is being written by {error}; wait until that is done and run this again"
            ) from error

    def write_sidecar(
        self,
        path: Path,
        input_hashes: Mapping[str, str],
        files: Mapping[str, Mapping[str, Any]],
        facts: Mapping[str, Any],
        started: float,
    ) -> None:
        write_json(
            path,
            {
                "identity": dict(self.identity),
                "arguments": dict(self.arguments),
                "inputs": input_hashes,
                "input_paths": {role: paths.relative(path) for role, path in self.inputs.items()},
                "files": files,
                **facts,
                **provenance(),
                "seconds": round(time.monotonic() - started, 2),
            },
        )
