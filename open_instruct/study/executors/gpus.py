"""The GPUs that the jobs of this machine are divided among."""

import os
from collections.abc import Sequence
from pathlib import Path


def visible_gpus() -> tuple[str, ...]:
    """Names for CUDA_VISIBLE_DEVICES: those that it lists or, where it is not set, of all NVIDIA GPUs.

    torch would tell, too, but it takes seconds to import.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return tuple(name for name in map(str.strip, chosen.split(",")) if name not in ("", "-1"))
    # CUDA counts from 0 the GPUs that it finds, whatever their files are called.
    return tuple(map(str, range(len(list(Path("/dev").glob("nvidia[0-9]*"))))))


def least_used(gpus: Sequence[str], in_use: Sequence[str | None]) -> str | None:
    """The GPU for the next job; None where there is no choice."""
    return min(gpus, key=in_use.count) if len(gpus) > 1 else None
