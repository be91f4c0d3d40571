"""Number of parameters of a model on the disk, from the headers of its safetensors files."""

import json
from math import prod
from pathlib import Path


def count_parameters(folder: Path) -> int:
    """Parameters in the safetensors files of `folder`; 0 where there are none that can be read.

    The format: the header's length (8 bytes, little-endian), then JSON with the shape of each tensor.
    """
    total = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            try:
                tensors = json.loads(file.read(length)) if length < path.stat().st_size else {}
            except ValueError:
                return 0
        total += sum(prod(tensor["shape"]) for name, tensor in tensors.items() if name != "__metadata__")
    return total
