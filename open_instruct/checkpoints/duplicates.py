"""Identical weights under two steps: an error that no later number would show. Such checkpoints are refused."""

import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from open_instruct.checkpoints.families import Checkpoint
from open_instruct.checkpoints.listing import Available
from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.hashing import describe_files, digest
from open_instruct.common.json_files import read_json
from open_instruct.common.sidecars import has_sidecar, sidecar_path

WEIGHTS = (".safetensors", ".bin", ".pt")


def refuse_duplicates_in_store(weights: Mapping[Available, Mapping[str, str]]) -> None:
    """Refuse checkpoints of which a store has the same weights, whole or in part, under two steps.

    `weights`: checkpoint -> file name -> checksum. Raises UserError that names every such pair.
    """
    seen: dict[str, Available] = {}
    problems = []
    for one, files in weights.items():
        for file, checksum in files.items():
            other = seen.setdefault(checksum, one)
            if other != one and not may_share(other.checkpoint, one.checkpoint):
                problems.append(f"{one.name} has the same {file} as {other.name} ({checksum[:20]})")
    if problems:
        raise UserError(
            f"the store serves the same weights under two steps: {'; '.join(problems)}; leave one of them out, or add "
            "--allow_duplicates to inspect them (a study refuses them)"
        )


def refuse_duplicates_on_disk(checkpoints: Sequence[Checkpoint]) -> None:
    """Refuse checkpoints that have a file of weights in common (check_checkpoints.py compares single tensors).

    Raises UserError that names every such pair. Checkpoints that are not on the disk are skipped.
    """
    seen: dict[str, tuple[Checkpoint, Path]] = {}
    problems = []
    for checkpoint in present(checkpoints):
        for path, content in weights_of(checkpoint):
            other, other_path = seen.setdefault(content, (checkpoint, path))
            if other != checkpoint and not may_share(other, checkpoint):
                problems.append(f"{paths.relative(path)} is the same as {paths.relative(other_path)}")
    if problems:
        raise UserError(
            f"the same weights under two steps: {'; '.join(problems)}; leave one of them out, or download it from "
            "another store, then `python open_instruct/check_checkpoints.py`"
        )


def may_share(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two checkpoints may have the same weights: of a run's or stage's beginning, and what it began with."""
    are_apart = (one.family, one.stage, one.run) != (other.family, other.stage, other.run)
    return are_apart and 0 in (one.step, other.step)


def present(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Those that are on the disk, native or converted."""
    # Each folder of checkpoints is read once: a suite has tens of thousands of them, most not downloaded.
    parents = {folder.parent for one in checkpoints for folder in (one.folder, one.model_folder)}
    there = {parent / name for parent in parents if parent.is_dir() for name in os.listdir(parent)}
    return [one for one in checkpoints if one.folder in there or one.model_folder in there]


def weights_of(checkpoint: Checkpoint) -> Iterator[tuple[Path, str]]:
    """Every file of weights of a checkpoint, native and converted, with a hash of its content."""
    for folder in dict.fromkeys((checkpoint.folder, checkpoint.model_folder)):
        recorded = read_json(sidecar_path(folder)).get("files", {}) if has_sidecar(folder) else {}
        for path in sorted(folder.glob("*")):
            # Other names are the optimiser's state.
            if path.suffix in WEIGHTS and path.name.startswith(("model", "pytorch_model")):
                yield path, tensor_checksums(path) or describe_files(path, recorded)[path.name]["sha256"]


def tensor_checksums(path: Path) -> str | None:
    """Hash of the CRCs that a torch file stores of its tensors; None for a file that is no zip archive.

    The tensors are not read. The same tensors saved twice need not give the same file.
    """
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        tensors = [(e.filename.split("/", 1)[-1], e.file_size, e.CRC) for e in archive.infolist()]
    return digest([list(entry) for entry in sorted(tensors) if entry[0].startswith("data/")])
