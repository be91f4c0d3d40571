"""Weights as files of safetensors, several at once: while one waits for the disk, another is looked at and hashed.

The library writes a file in few large pieces, and to hash it is to read it again: together twice the time of this.
"""

import hashlib
import json
import os
import struct
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards

from open_instruct.common.errors import UserError
from open_instruct.common.json_files import write_json
from open_instruct.olmo_hf.native import load_state
from open_instruct.olmo_hf.weights import Piece, take

NUM_AT_ONCE = 2
"""Files that are written, and weights that the proof compares."""
CHUNK_BYTES = 2**18
"""What is hashed is still in the processor's cache when it is written. Large ones cost more: docs/convert.md."""
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


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

    with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
        written = dict(zip(split.filename_to_tensors, pool.map(write, split.filename_to_tensors), strict=True))
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_json(output_dir / "model.safetensors.index.json", index)
    return written


def write_shard(
    state: Mapping[str, torch.Tensor], pieces: Mapping[str, Piece], empty: Mapping[str, torch.Tensor], path: Path
) -> dict[str, Any]:
    """Raises UserError for a weight that is not finite, or that becomes so in the target's precision."""
    hashed = hashlib.sha256()
    with path.open("wb") as file:

        def write(content: bytes | memoryview) -> None:
            for start in range(0, len(content), CHUNK_BYTES):
                chunk = content[start : start + CHUNK_BYTES]
                hashed.update(chunk)
                file.write(chunk)

        write(header({name: empty[name] for name in pieces}))
        for name, piece in pieces.items():
            tensor = take(state, piece, empty[name].dtype)
            # The extremes tell (nan is one where there is any), without a copy of the tensor.
            if not torch.stack(torch.aminmax(tensor)).isfinite().all():
                raise UserError(f"{piece.source} has values that are not finite in {tensor.dtype}")
            write(tensor.flatten().view(torch.uint8).numpy().data)
        file.flush()
        # The sidecar says that the file is there: it has to be, even after the power fails.
        os.fsync(file.fileno())
    found = path.stat()
    return {"sha256": hashed.hexdigest(), "bytes": found.st_size, "mtime_ns": found.st_mtime_ns}


def header(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """What stands before the tensors' bytes. Source: https://github.com/huggingface/safetensors, "Format"."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, tensor in tensors.items():
        stop = start + tensor.nbytes
        entries[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
