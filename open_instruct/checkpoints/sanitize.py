"""Make a folder that was downloaded in transformers format safe to use: no pickles, no other weights, a right EOS."""

import json
import pickle
import re
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json, write_json

BUFFERS = re.compile(r"(attention\.(masked_)?bias|rotary_emb\.inv_freq)$")
"""Constants that older versions of transformers saved beside the weights."""

LOADING = Lock()
"""transformers replaces methods of its own while it loads a model: of two threads at once the later one would put back
what the first had put in, and tied weights stay untied for the rest of the process."""


def make_ready(folder: Path) -> dict[str, Any]:
    """Returns what was changed.  Raises UserError where the folder is no causal model that transformers can hold."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{folder}: transformers reads no model or no tokenizer from it ({reason})") from error
    facts: dict[str, Any] = {"made_safetensors_of": [path.name for path in sorted(folder.glob("pytorch_model*.bin"))]}
    for path in sorted(folder.glob("pytorch_model*.bin")):
        make_safetensors(path)
    for path in folder.glob("pytorch_model*.bin.index.json"):
        rewrite_index(path)
    check_weights(folder, config)
    return facts | mend_eos(folder, tokenizer)


def make_safetensors(path: Path) -> None:
    """The tensors of a pickle, of which nothing else is ever read, beside it as safetensors; the pickle is removed."""
    try:
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        tensors = {name: tensor for name, tensor in state.items() if not BUFFERS.search(name)}
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is no dict of tensors: {reason}; nothing in it was executed") from error
    # Tensors that share memory, as tied ones do, are not taken by safetensors.
    owned = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    save_file(owned, path.with_name(safetensors_name(path.name)), metadata={"format": "pt"})
    path.unlink()


def safetensors_name(name: str) -> str:
    return name.replace("pytorch_model", "model").replace(".bin", ".safetensors")


def rewrite_index(path: Path) -> None:
    index = read_json(path)
    places = index["weight_map"].items()
    index["weight_map"] = {name: safetensors_name(file) for name, file in places if not BUFFERS.search(name)}
    write_json(path.with_name(safetensors_name(path.name)), index)
    path.unlink()


def check_weights(folder: Path, config: Any) -> None:
    """Raises UserError where the weights are not exactly those of config.json. No weight is read for that."""
    try:
        with LOADING:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, config=config, device_map="meta", local_files_only=True, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder}: transformers cannot load it ({str(error).strip().splitlines()[0]})") from error
    wrong = {kind: sorted(map(str, keys))[:4] for kind, keys in loaded[1].items() if keys and kind.endswith("_keys")}
    if wrong:
        raise UserError(f"{folder}: the weights are not those of its config.json: {wrong}")


def mend_eos(folder: Path, tokenizer: Any) -> dict[str, Any]:
    """Where a config names another EOS than the tokenizer, a model never stops: the tokenizer's is written into it."""
    if tokenizer.eos_token_id is None:
        raise UserError(f"{folder}: its tokenizer names no EOS, so nothing could end an answer")
    mended = {}
    for path in (folder / "config.json", folder / "generation_config.json"):
        if not path.is_file():
            continue
        values = json.loads(path.read_text(encoding="utf-8"))
        named = values.get("eos_token_id")
        if tokenizer.eos_token_id not in (named if isinstance(named, list) else [named]):
            mended[path.name] = {"was": named, "now": tokenizer.eos_token_id}
            write_json(path, values | {"eos_token_id": tokenizer.eos_token_id})
    for name, change in mended.items():
        print(f"note: {name} named EOS {change['was']}, the tokenizer {change['now']} ({tokenizer.eos_token}): mended")
    return {"eos_mended": mended}
