"""Tiny random models of three families for tests of the engine: OLMo, Llama with grouped heads, GPT-NeoX."""

from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OlmoConfig,
    OlmoForCausalLM,
)

from eval.engine.generation import generation_way
from eval.engine.log_likelihood import scoring_way
from eval.engine.ways import OWN_CACHE, PREFIX_TREE

FAMILIES: dict[str, Any] = {
    "olmo": (OlmoConfig, OlmoForCausalLM, {}),
    "llama": (LlamaConfig, LlamaForCausalLM, {"num_key_value_heads": 2}),
    "neox": (GPTNeoXConfig, GPTNeoXForCausalLM, {}),
}


def toy_model(family: str, *, vocab_size: int = 64) -> Any:
    """Two layers with wide weights, so that outputs differ from token to token."""
    torch.manual_seed(0)
    config, model, sizes = FAMILIES[family]
    return model(
        config(
            vocab_size=vocab_size,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            initializer_range=0.3,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=0,
            **sizes,
        )
    ).eval()


def fast_model(family: str, *, vocab_size: int = 64, device: str | torch.device = "cpu") -> Any:
    """A toy model whose fast ways have been compared with its plain forward pass, and found right."""
    model = toy_model(family, vocab_size=vocab_size).to(device)
    assert scoring_way(model, longest=1) == PREFIX_TREE
    for shares_prefix in (True, False):
        assert generation_way(model, longest=1, shares_prefix=shares_prefix) == OWN_CACHE
    return model


def other_family(kind: str, **settings: Any) -> Any:
    """A random model of an architecture by its name, with weights large enough that texts differ."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"bos_token_id": None, "eos_token_id": 63, "pad_token_id": 0}
    config = AutoConfig.for_model(kind, **(sizes | {"intermediate_size": 64} | ids | settings))
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(4)
    return model
