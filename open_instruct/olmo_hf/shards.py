"""Weights as files of safetensors, several at once: while one waits for the disk, another is looked at and hashed."""

import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file

from open_instruct.olmo_hf.native import load_state
from open_instruct.olmo_hf.weights import Piece, take
from open_instruct.records import UserError, sha256, write_json

NUM_WRITERS = 3
"""Each has a file's weights in memory."""


def write_shards(
    source: Sequence[Path],
    pieces: Mapping[str, Piece],
    empty: Mapping[str, torch.Tensor],
    output_dir: Path,
    max_shard_size: str,
) -> dict[str, dict[str, Any]]:
    """Write the files and, where there are several, their index.

    Returns {"sha256", "bytes", "mtime_ns"} of each by name. Raises UserError for a weight that is not finite.
    """
    try:
        split = split_torch_state_dict_into_shards(
            {name: empty[name] for name in pieces}, max_shard_size=max_shard_size
        )
    except ValueError as error:
        raise UserError(f"max_shard_size: {error}") from error

    def write(filename: str) -> dict[str, Any]:
        names = split.filename_to_tensors[filename]
        # Mapped anew for every file: what was read of a mapping takes memory for as long as the mapping lives.
        return write_shard(load_state(source), {name: pieces[name] for name in names}, empty, output_dir / filename)

    with ThreadPoolExecutor(NUM_WRITERS) as pool:
        written = dict(zip(split.filename_to_tensors, pool.map(write, split.filename_to_tensors), strict=True))
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_json(output_dir / "model.safetensors.index.json", index)
    return written


def write_shard(
    state: Mapping[str, torch.Tensor], pieces: Mapping[str, Piece], empty: Mapping[str, torch.Tensor], path: Path
) -> dict[str, Any]:
    """Raises UserError for a weight that is not finite, or that becomes so in the target's precision."""
    shard = {name: take(state, piece, empty[name].dtype) for name, piece in pieces.items()}
    for name, tensor in shard.items():
        # The extremes tell (nan is one where there is any), without a copy of the tensor.
        if not torch.stack(torch.aminmax(tensor)).isfinite().all():
            raise UserError(f"{pieces[name].source} has values that are not finite in {tensor.dtype}")
    save_file(shard, path, metadata={"format": "pt"})
    # safetensors makes files that only their owner can read; colleagues may read the rest of the folder.
    shutil.copymode(path.with_name("config.json"), path)
    # The sidecar says that the file is there: it has to be, even after the power fails.
    with path.open("rb") as file:
        os.fsync(file.fileno())
    found = path.stat()
    return {"sha256": sha256(path), "bytes": found.st_size, "mtime_ns": found.st_mtime_ns}
