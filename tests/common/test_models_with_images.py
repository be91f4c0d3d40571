"""Folders of models with parts for images or sound: the part for text is loaded, as by transformers."""

import json

import pytest
import torch
from architectures import build
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from open_instruct.common.errors import UserError
from open_instruct.common.model_loading import load_model
from open_instruct.training.model import require_saved_type

IDS = torch.tensor([[5, 9, 17, 30, 2, 8, 40]])


@pytest.mark.parametrize("name", ["llama4", "gemma4", "mllama", "qwen3_5"])
@torch.no_grad()
def test_the_part_for_text_is_loaded_without_the_others(name, tmp_path):
    build(tmp_path, name)
    expected = AutoModelForCausalLM.from_pretrained(tmp_path).eval()(input_ids=IDS).logits
    assert torch.equal(load_model(tmp_path).eval()(input_ids=IDS).logits, expected)


def test_a_lost_weight_of_the_part_for_text_is_refused(tmp_path):
    build(tmp_path, "llama4")
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    lost = next(name for name in weights if "language_model" in name and "q_proj" in name)
    save_file({name: tensor for name, tensor in weights.items() if name != lost}, file, {"format": "pt"})
    with pytest.raises(UserError, match="missing_keys"):
        load_model(tmp_path)


def test_unknown_weights_of_a_model_of_text_only_are_refused(tmp_path):
    build(tmp_path, "llama")
    file = tmp_path / "model.safetensors"
    save_file(load_file(file) | {"model.layers.7.extra": torch.zeros(1)}, file, {"format": "pt"})
    with pytest.raises(UserError, match="unexpected_keys"):
        load_model(tmp_path)


def test_an_attention_that_config_json_names_is_not_taken(tmp_path):
    build(tmp_path, "llama")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"attn_implementation": "eager"}))
    assert load_model(tmp_path).config._attn_implementation == "sdpa"


def test_a_part_that_could_not_be_loaded_again_is_not_trained(tmp_path):
    build(tmp_path / "llama4", "llama4")
    require_saved_type(load_model(tmp_path / "llama4"))
    build(tmp_path / "mllama", "mllama")
    with pytest.raises(UserError, match=r"MllamaForCausalLM would be saved as type mllama_text_model"):
        require_saved_type(load_model(tmp_path / "mllama"))
