"""Copies of a model with known changes of its weights, as if fine-tuned from it."""

import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from open_instruct.common.artifacts import Artifact


def changed_copy(base: Path, folder: Path, change: Callable[[str, Tensor], Tensor]) -> Path:
    """A copy of the model in `base` with `change(name, tensor)` for every tensor, whose sidecar names the base."""
    with Artifact(folder, {}, {"model": base}, {"model_id": folder.name}).making_folder() as (made, facts):
        shutil.copytree(base, made, dirs_exist_ok=True, ignore=shutil.ignore_patterns("meta.json"))
        tensors = load_file(base / "model.safetensors")
        save_file({n: change(n, t) for n, t in tensors.items()}, made / "model.safetensors", {"format": "pt"})
        facts["input_paths"] = {"model": str(base)}
    return folder
