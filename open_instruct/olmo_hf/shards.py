"""Write weights as safetensors files, two in parallel: one is written to the disk while the next is hashed.

The safetensors library writes a tensor in one piece, and hashing its files means reading them again: together these
take twice as long (docs/convert.md).
"""

import hashlib
import json
import os
import struct
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards

from open_instruct.common.errors import UserError
from open_instruct.common.json_files import write_json
from open_instruct.olmo_hf.native import load_state
from open_instruct.olmo_hf.weights import Conversion, take

NUM_PARALLEL = 2
"""Files written, or weights compared, in parallel."""
CHUNK_BYTES = 2**18
"""Size in which content is hashed and written, so that it is still in the CPU's cache when it is written."""
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def write_shards(conversion: Conversion, max_shard_size: str) -> dict[str, dict[str, Any]]:
    """Write the files and, where there are several, their index.

    Returns {"sha256", "bytes", "mtime_ns"} of each by name. Raises UserError for a weight that is not finite.
    """
    try:
        ordered = {name: conversion.empty[name] for name in conversion.pieces}
        split = split_torch_state_dict_into_shards(ordered, max_shard_size=max_shard_size)
    except ValueError as error:
        raise UserError(f"max_shard_size: {error}") from error

    def write(filename: str) -> dict[str, Any]:
        return write_shard(conversion, split.filename_to_tensors[filename], filename)

    with ThreadPoolExecutor(NUM_PARALLEL) as pool:
        written = dict(zip(split.filename_to_tensors, pool.map(write, split.filename_to_tensors), strict=True))
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_json(conversion.folder / "model.safetensors.index.json", index)
    return written


def write_shard(conversion: Conversion, names: Sequence[str], filename: str) -> dict[str, Any]:
    """Raises UserError for a weight that is not finite in the target's precision."""
    # Mapped anew for each file, since what was read of a mapping occupies memory until the mapping is closed.
    state = load_state(conversion.weights)
    hashed = hashlib.sha256()
    with (conversion.folder / filename).open("wb") as file:

        def write(content: bytes | memoryview) -> None:
            for start in range(0, len(content), CHUNK_BYTES):
                chunk = content[start : start + CHUNK_BYTES]
                hashed.update(chunk)
                file.write(chunk)

        write(header({name: conversion.empty[name] for name in names}))
        for name in names:
            tensor = take(state, conversion.pieces[name], conversion.dtype)
            # The extremes of a tensor with a nan are nan. Unlike isfinite, aminmax allocates no copy.
            if not torch.stack(torch.aminmax(tensor)).isfinite().all():
                raise UserError(f"{conversion.pieces[name].source} has values that are not finite in {tensor.dtype}")
            write(tensor.flatten().view(torch.uint8).numpy().data)
        file.flush()
        # A valid sidecar means that the file is complete, also after a power failure.
        os.fsync(file.fileno())
        found = os.fstat(file.fileno())
    return {"sha256": hashed.hexdigest(), "bytes": found.st_size, "mtime_ns": found.st_mtime_ns}


def header(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Header of a safetensors file. Source: https://github.com/huggingface/safetensors, "Format"."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, tensor in tensors.items():
        stop = start + tensor.nbytes
        entries[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
