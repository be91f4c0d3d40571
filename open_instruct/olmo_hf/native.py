"""Find and load a checkpoint in OLMo's own format, in any of its layouts:

config.yaml + model.pt            of the training code
config.yaml + model.safetensors   of newer training code, with encoded tensor names
config.json + model*.safetensors or pytorch_model*.bin    of the package hf_olmo, on the Hub
"""

import base64
import pickletools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from open_instruct.checkpoints.torch_file import load_torch
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json

WEIGHTS = {
    "config.yaml": ("model.pt", "model.safetensors"),
    "config.json": ("model*.safetensors", "pytorch_model*.bin"),
}
"""Config file -> alternative patterns of the weights beside it."""
NAME_OPERATIONS = {
    *("PROTO", "FRAME", "BINUNICODE", "SHORT_BINUNICODE", "BINPUT", "MEMOIZE"),
    *("TUPLE1", "NEWFALSE", "TUPLE2", "STOP"),
}
"""Operations of the pickle ((name,), False)."""


@dataclass(frozen=True)
class NativeFiles:
    config: Path
    weights: tuple[Path, ...]


def find_native(folder: Path) -> NativeFiles:
    """Raises UserError where `folder` is no checkpoint in OLMo's own format."""
    config = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if config is None:
        missing = "config.yaml" if (folder / "model.pt").is_file() else "config.yaml and model.pt"
    else:
        check_is_native(config)
        for pattern in WEIGHTS[config.name]:
            if weights := sorted(folder.glob(pattern)):
                return NativeFiles(config, tuple(weights))
        missing = WEIGHTS[config.name][0].replace("*", "")
    raise UserError(
        f"{folder} lacks {missing}; expected a checkpoint in OLMo's own format: "
        "get one with `python open_instruct/download_olmo_ckpts.py --family … --steps …`"
    )


def check_is_native(config: Path) -> None:
    values = read_json(config) if config.suffix == ".json" else {"d_model": None}
    if not isinstance(values, dict) or "d_model" not in values:
        kind = values.get("model_type") if isinstance(values, dict) else None
        raise UserError(
            f"{config.parent} has a model of type {kind}, not one in OLMo's own format; one in transformers format "
            "needs no conversion"
        )


def load_state(files: Sequence[Path]) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, mapped from disk. Nothing but tensors is unpickled.

    Raises UserError for any other content: a truncated file, a web page, code.
    """
    state: dict[str, torch.Tensor] = {}
    for path in files:
        tensors = load_safetensors(path) if path.suffix == ".safetensors" else load_torch(path)
        if twice := sorted(state.keys() & tensors.keys()):
            raise UserError(f"{path}: {twice[0]} is in another file too; download the checkpoint again")
        state |= tensors
    # The Hub's layout has one more module around the model.
    if state and all(name.startswith("model.") for name in state):
        state = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    return state


def load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {decode_name(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} ({path.stat().st_size:,} bytes) is no safetensors file, or is cut short: {error}; "
            "download it again"
        ) from error


def decode_name(name: str) -> str:
    """Decode a tensor name: OLMo's trainer pickles ((name,), False) and encodes it as base64. Plain names are kept.

    The pickle is disassembled, not loaded. Raises UserError for any other one. Source: olmo.safetensors_util.
    """
    if "." in name:
        return name
    try:
        operations = [(op.name, arg) for op, arg, _ in pickletools.genops(base64.urlsafe_b64decode(name))]
    except ValueError:
        operations = []
    strings = [str(arg) for op, arg in operations if op.endswith("BINUNICODE")]
    if len(strings) != 1 or not {op for op, _ in operations} <= NAME_OPERATIONS:
        raise UserError(
            f"the tensor name {name[:60]!r} is none of OLMo's; nothing in it was executed; download it again"
        )
    return strings[0]
