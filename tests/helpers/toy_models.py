"""Toy tokenizers and models for tests: small, random, made without network.

`config` keywords override the toy's sizes, so that a test names only the settings that matter to it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import OlmoConfig, OlmoForCausalLM, PreTrainedTokenizerFast

from open_instruct.common.model_loading import load_model
from open_instruct.training.attention import WITHOUT_MASK

if TYPE_CHECKING:
    from olmo.model import OLMo

EOS, PAD = "<|endoftext|>", "<|padding|>"
SENTENCES = [
    "The cat sat on the mat, and the dog sat on the cat.",
    "### Input_1: A man is eating.\n ### Input_2: A man is sleeping.\n ### Inference: contradiction",
    "Does one thing follow from another? yes or no, entailment or neutral.",
    "### Input: Jordan left the party early.\n ### Question: Why did Jordan do this?",
]
TOY_SIZES: dict[str, Any] = {
    "n_layers": 2,
    "d_model": 32,
    "n_heads": 4,
    "mlp_hidden_size": 128,
    "max_sequence_length": 128,
}


def toy_tokenizer(folder: Path, vocab_size: int = 300) -> PreTrainedTokenizerFast:
    """A byte-level BPE (any text can be encoded) with EOS `<|endoftext|>` and pad `<|padding|>`, saved in `folder`."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(SENTENCES, vocab_size=vocab_size - 2, min_frequency=1, show_progress=False)
    # After the ordinary tokens, so that EOS is not 0: a test fails if the two are confused.
    bpe.add_special_tokens([PAD, EOS])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token=EOS, pad_token=PAD)
    tokenizer.save_pretrained(folder)
    return tokenizer


def toy_olmo(folder: Path, *, seed: int = 0, **config: Any) -> OlmoForCausalLM:
    """A random two-layer OlmoForCausalLM in transformers format with a toy tokenizer, saved in `folder`."""
    tokenizer = toy_tokenizer(folder)
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    model = OlmoForCausalLM(OlmoConfig(**(sizes | config))).eval()
    model.save_pretrained(folder)
    return model


def toy_adapter(base: Path, folder: Path) -> None:
    """A random low-rank adapter of the model in `base`, saved in `folder`."""
    from peft import LoraConfig, get_peft_model  # takes seconds

    torch.manual_seed(1)
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(OlmoForCausalLM.from_pretrained(base), config).save_pretrained(folder)


def toy_native_olmo(folder: Path, *, seed: int = 0, **config: Any) -> "OLMo":
    """A random two-layer OLMo with a SwiGLU of hidden size 64, saved in OLMo's own format in `folder`.

    As in real OLMo-1B configs, the layer norms have no weights and `eos_token_id` is 0, which is wrong.
    Its vocabulary is that of `toy_tokenizer` (300), its embedding is padded to 384.
    """
    # Imported here: the other toys need no ai2-olmo.
    from olmo.config import ModelConfig, TrainConfig
    from olmo.model import OLMo

    sizes: dict[str, Any] = {
        "activation_type": "swiglu",
        "rope": True,
        "include_bias": False,
        "layer_norm_with_affine": False,
        "attention_layer_norm_with_affine": False,
        "vocab_size": 300,
        "embedding_size": 384,
        "eos_token_id": 0,
        "pad_token_id": 1,
        "attention_dropout": 0.0,
        "residual_dropout": 0.0,
        "embedding_dropout": 0.0,
        "init_device": "cpu",
        "init_std": 0.2,
    }
    model_config = ModelConfig(**(TOY_SIZES | sizes | config))
    torch.manual_seed(seed)
    model = OLMo(model_config).eval()
    # Norm weights start at one; other values show whether each is converted to the right place.
    for name, parameter in model.named_parameters():
        if "norm" in name or "ln_f" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    folder.mkdir(parents=True, exist_ok=True)
    TrainConfig(model=model_config).save(folder / "config.yaml")
    torch.save(model.state_dict(), folder / "model.pt")
    return model


def load_for_batches(folder: Path, *, packing: bool) -> Any:
    """The model in `folder`, with the attention that batches of this kind need."""
    model = load_model(folder)
    if packing:
        model.set_attn_implementation(WITHOUT_MASK)
    return model
