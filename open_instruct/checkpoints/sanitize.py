"""Make a model downloaded in transformers format safe to use: no pickles, the right weights, the tokenizer's EOS."""

import re
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from safetensors.torch import save_file

from open_instruct.checkpoints.torch_file import load_torch
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json, write_json
from open_instruct.common.model_loading import load_config, load_model, load_tokenizer

BUFFERS = re.compile(r"(attention\.(masked_)?bias|rotary_emb\.inv_freq)$")
"""Constants that older versions of transformers saved beside the weights."""

LOADING = Lock()
"""transformers patches its own methods while it loads a model. Two threads that load in parallel would leave them
patched, and the weights of every later model of the process untied."""


def sanitize(folder: Path) -> dict[str, Any]:
    """Convert pickles to safetensors, check the weights, correct the EOS; returns what was changed.

    Raises UserError where the folder is no causal model that transformers supports.
    """
    config, tokenizer = load_config(folder), load_tokenizer(folder)
    pickles = sorted(folder.glob("pytorch_model*.bin"))
    for path in pickles:
        convert_pickle(path)
    for path in folder.glob("pytorch_model*.bin.index.json"):
        convert_index(path)
    check_weights(folder, config)
    return {"made_safetensors_of": [path.name for path in pickles], "eos_mended": correct_eos(folder, tokenizer)}


def convert_pickle(path: Path) -> None:
    """Save the tensors of a pickle as safetensors beside it, and remove it."""
    # A copy each, since safetensors refuses tensors that share memory, as tied ones do.
    tensors = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in load_torch(path).items()
        if not BUFFERS.search(name)
    }
    save_file(tensors, path.with_name(safetensors_name(path.name)), metadata={"format": "pt"})
    path.unlink()


def safetensors_name(name: str) -> str:
    return name.replace("pytorch_model", "model").replace(".bin", ".safetensors")


def convert_index(path: Path) -> None:
    index = read_json(path)
    files = index["weight_map"].items()
    index["weight_map"] = {name: safetensors_name(file) for name, file in files if not BUFFERS.search(name)}
    write_json(path.with_name(safetensors_name(path.name)), index)
    path.unlink()


def check_weights(folder: Path, config: Any) -> None:
    """Raises UserError where names or shapes of the weights are not those of config.json. No weight is read."""
    with LOADING:
        load_model(folder, config=config, device_map="meta")


def correct_eos(folder: Path, tokenizer: Any) -> dict[str, Any]:
    """Write the tokenizer's EOS into configs that name another one, with which generation would never stop."""
    if tokenizer.eos_token_id is None:
        raise UserError(f"{folder}: its tokenizer has no EOS token, so generation would never stop")
    corrected = {}
    for path in (folder / "config.json", folder / "generation_config.json"):
        values = read_json(path) if path.is_file() else {"eos_token_id": tokenizer.eos_token_id}
        named = values.get("eos_token_id")
        if tokenizer.eos_token_id not in (named if isinstance(named, list) else [named]):
            corrected[path.name] = {"was": named, "now": tokenizer.eos_token_id}
            write_json(path, values | {"eos_token_id": tokenizer.eos_token_id})
            now = f"{tokenizer.eos_token_id} ({tokenizer.eos_token})"
            print(f"note: the EOS of {path.name} was {named}; corrected to the tokenizer's, {now}")
    return corrected
