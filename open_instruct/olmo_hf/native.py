"""A checkpoint in OLMo's own format, in any of its layouts: its files, and its tensors mapped from disk.

config.yaml + model.pt            the training code's
config.yaml + model.safetensors   the same, newer: names are packed into other names
config.json + model*.safetensors or pytorch_model*.bin    the Hub's, of the package hf_olmo
"""

import base64
import fnmatch
import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json

HUB_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True)
class NativeFiles:
    config: Path
    weights: tuple[Path, ...]


def find_native(folder: Path) -> NativeFiles:
    """Raises UserError where `folder` holds no checkpoint in OLMo's own format."""
    if (folder / "config.yaml").is_file():
        for name in ("model.pt", "model.safetensors"):
            if (folder / name).is_file():
                return NativeFiles(folder / "config.yaml", (folder / name,))
        missing = "model.pt"
    elif (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
        if not isinstance(config, dict) or "d_model" not in config:
            kind = config.get("model_type") if isinstance(config, dict) else None
            raise UserError(
                f"{folder} holds a model of type {kind}, not one in OLMo's own format; one in transformers format "
                "needs no conversion"
            )
        names = sorted(path.name for path in folder.iterdir())
        found = next((w for pattern in HUB_WEIGHTS if (w := fnmatch.filter(names, pattern))), None)
        if found:
            return NativeFiles(folder / "config.json", tuple(folder / name for name in found))
        missing = "model.safetensors"
    else:
        missing = "config.yaml and model.pt" if not (folder / "model.pt").is_file() else "config.yaml"
    raise UserError(
        f"{folder} lacks {missing}; expected a checkpoint in OLMo's own format: "
        "get one with `python open_instruct/download_olmo_ckpts.py`"
    )


def load_state(files: Sequence[Path]) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, mapped from disk and not yet read. Nothing but tensors is ever unpickled.

    Raises UserError for anything else, be it truncated, a web page or code.
    """
    state: dict[str, torch.Tensor] = {}
    for path in files:
        tensors = load_safetensors(path) if path.suffix == ".safetensors" else load_torch(path)
        if twice := sorted(state.keys() & tensors.keys()):
            raise UserError(f"{path}: {twice[0]} is in another file too; download the checkpoint again")
        state |= tensors
    # The Hub's layout wraps the model once more.
    if state and all(name.startswith("model.") for name in state):
        state = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    return state


def load_torch(path: Path) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} ({path.stat().st_size:,} bytes) is no state dict of tensors, or is cut short: {reason}; "
            "nothing in it was executed; download it again from a source you trust"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path}: expected a dict of tensors, found {type(state).__name__}; download it again")
    return state


def load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {unpack_name(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} ({path.stat().st_size:,} bytes) is no file of safetensors, or is cut short: {error}; "
            "download it again"
        ) from error


class NoCode(pickle.Unpickler):
    """Takes numbers, strings and tuples; there is nothing in a name that could be code."""

    def find_class(self, module: str, name: str) -> None:
        raise pickle.UnpicklingError(f"{module}.{name}")


def unpack_name(name: str) -> str:
    """OLMo's trainer packs ((name,), False) into a name by pickle and base64; other names are what they are.

    Raises UserError for a packed name that is anything else. Source: olmo.safetensors_util.
    """
    if "." in name:
        return name
    try:
        keys, is_pickled = NoCode(io.BytesIO(base64.urlsafe_b64decode(name))).load()
        (inner,) = keys
    except (ValueError, TypeError, EOFError, pickle.UnpicklingError, IndexError, AttributeError) as error:
        raise UserError(f"the tensor {name[:60]!r} has no name of OLMo's; nothing in it was executed") from error
    if is_pickled or not isinstance(inner, str):
        raise UserError(f"the tensor {str(inner)[:60]!r} is packed in a way that no model is; download it again")
    return inner
