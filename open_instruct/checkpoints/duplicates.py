"""One set of weights under two steps: the error that no number downstream would show."""

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from open_instruct.checkpoints.families import Checkpoint
from open_instruct.common import paths
from open_instruct.common.artifacts import describe_files, digest, sidecar_path
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json

WEIGHTS = (".safetensors", ".bin", ".pt")


def refuse_duplicates(checkpoints: Sequence[Checkpoint]) -> None:
    """Raises UserError that names every two checkpoints of which a file of weights is the same, where they lie on disk.

    Parts of files are compared by check_checkpoints.py.
    """
    seen: dict[str, tuple[Checkpoint, Path]] = {}
    problems = []
    for checkpoint in checkpoints:
        for path, content in weights_of(checkpoint):
            other, other_path = seen.setdefault(content, (checkpoint, path))
            if other != checkpoint:
                problems.append(f"{paths.relative(path)} is the same as {paths.relative(other_path)}")
    if problems:
        raise UserError(
            f"the same weights under two steps: {'; '.join(problems)}; leave one of them out, or download it from "
            "another store, then `python open_instruct/check_checkpoints.py`"
        )


def weights_of(checkpoint: Checkpoint) -> Iterator[tuple[Path, str]]:
    """Every file of weights of a checkpoint, in its own format and converted, and what tells its content."""
    for place in (paths.native_checkpoint, paths.converted_checkpoint):
        folder = place(checkpoint.family, checkpoint.name)
        if not folder.is_dir():
            continue
        recorded = read_json(sidecar_path(folder)).get("files", {}) if sidecar_path(folder).is_file() else {}
        for path in sorted(p for p in folder.iterdir() if p.suffix in WEIGHTS and is_model(p)):
            yield path, checksums_inside(path) or describe_files(path, recorded)[path.name]["sha256"]


def is_model(path: Path) -> bool:
    """Not the optimiser's state."""
    return path.name.startswith(("model", "pytorch_model"))


def checksums_inside(path: Path) -> str | None:
    """Digest of the checksums that torch keeps of every tensor, read without reading the tensors.

    The same tensors saved twice need not give the same file. None where it is no zip archive of torch.
    """
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        tensors = [(e.filename.split("/", 1)[-1], e.file_size, e.CRC) for e in archive.infolist()]
    return digest([list(entry) for entry in sorted(tensors) if entry[0].startswith("data/")])
