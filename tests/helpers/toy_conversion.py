"""Convert a native toy checkpoint, or change its options and weights first."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
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


def largest_difference(native, converted: Path) -> float:
    ids = torch.randint(300, (1, 100), generator=torch.Generator().manual_seed(7))
    model = AutoModelForCausalLM.from_pretrained(converted).eval()
    with torch.no_grad():
        return (native(ids).logits - model(ids).logits).abs().max().item()
