"""Convert a native toy checkpoint, or change its options and weights first."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from open_instruct.common.errors import UserError
from open_instruct.olmo_hf import convert_olmo_to_tf as convert

OLMO2 = {
    "norm_after": True,
    "attention_layer_norm": True,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "attention_layer_norm_with_affine": True,
}

LLAMA = {"layer_norm_type": "rms", "layer_norm_with_affine": True, "layer_norm_eps": 1e-6}
KINDS = {"olmo": {}, "olmo2": OLMO2, "llama": LLAMA}
"""Options of a model of each target."""


def run_conversion(folder: Path, **options) -> Path:
    arguments: dict[str, Any] = {
        "family": "tiny",
        "step": 300,
        "input_dir": folder / "native",
        "output_dir": folder / "converted",
        "tokenizer_name_or_path": str(folder / "tokenizer"),
    }
    convert.main(convert.Args(**(arguments | options)))
    return folder / "converted"


def refuse(folder: Path, match: str, **options) -> None:
    """Assert that the conversion is refused with this message, and leaves no output."""
    with pytest.raises(UserError, match=match):
        run_conversion(folder, **options)
    assert not (folder / "converted").exists()


def set_options(folder: Path, **options) -> None:
    path = folder / "native" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["model"].update(options)
    path.write_text(yaml.safe_dump(config))


def set_weights(folder: Path, change) -> None:
    state = torch.load(folder / "native" / "model.pt", weights_only=True)
    change(state)
    torch.save(state, folder / "native" / "model.pt")


def patch_config(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Convert with another configuration than the right one."""
    right = convert.target_config

    def wrong(*args):
        config = right(*args)
        for name, value in changes.items():
            setattr(config, name, value)
        return config

    monkeypatch.setattr(convert, "target_config", wrong)


def to_hub(native: Path, *, num_files: int, suffix: str) -> None:
    """The layout of the package hf_olmo: options in config.json, names with one more prefix."""
    options = yaml.safe_load((native / "config.yaml").read_text())["model"]
    about = {"architectures": ["OLMoForCausalLM"], "model_type": "hf_olmo", "auto_map": {"AutoConfig": "x--y.Z"}}
    about |= {"torch_dtype": "float32", "transformers_version": "4.36.2", "use_cache": True}
    (native / "config.json").write_text(json.dumps(options | about))
    state = {f"model.{name}": t for name, t in torch.load(native / "model.pt", weights_only=True).items()}
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    for number in range(num_files):
        place = "" if num_files == 1 else f"-{number + 1:05}-of-{num_files:05}"
        part = dict(list(state.items())[number::num_files])
        path = native / f"{stem}{place}.{suffix}"
        save_file(part, path) if suffix == "safetensors" else torch.save(part, path)
    for name in ("config.yaml", "model.pt"):
        (native / name).unlink()


def largest_difference(native, converted: Path) -> float:
    ids = torch.randint(300, (1, 100), generator=torch.Generator().manual_seed(7))
    model = AutoModelForCausalLM.from_pretrained(converted).eval()
    with torch.no_grad():
        return (native(ids).logits - model(ids).logits).abs().max().item()
