"""Random models of three architectures with tokenizers of their own, as their users' trainers would save them."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from toy_models import SENTENCES
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 1024,
    "initializer_range": 0.3,
}
GROUPED: dict[str, Any] = {"num_key_value_heads": 2, "head_dim": 8}
MODELS: dict[str, Any] = {
    "llama": (LlamaForCausalLM, LlamaConfig, GROUPED | {"tie_word_embeddings": False}),
    "neox": (GPTNeoXForCausalLM, GPTNeoXConfig, {"use_parallel_residual": True}),
    "gemma": (GemmaForCausalLM, GemmaConfig, GROUPED),
}
"""Architecture -> classes, and settings beside SIZES."""


def own_tokenizer(architecture: str, vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE, for Gemma a BPE of words with a mark for the space, of another size for each."""
    eos = {"llama": "</s>", "neox": "<|endoftext|>", "gemma": "<eos>"}[architecture]
    specials = [eos, "<pad>", "<bos>"]
    tokenizer = Tokenizer(models.BPE(byte_fallback=architecture == "gemma", unk_token=None))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if architecture == "gemma":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
        tokenizer.decoder = decoders.Sequence([decoders.Metaspace(prepend_scheme="never"), decoders.ByteFallback()])
        specials += [f"<0x{byte:02X}>" for byte in range(256)]
        alphabet = []
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if architecture == "neox":
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, pad_token="<pad>", bos_token="<bos>")


def own_model(folder: Path, architecture: str, *, seed: int = 0) -> None:
    """Save a random model and its tokenizer in `folder`."""
    model_class, config_class, settings = MODELS[architecture]
    tokenizer = own_tokenizer(architecture, 420 + 10 * list(MODELS).index(architecture))
    torch.manual_seed(seed)
    ids = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    model_class(config_class(**SIZES | settings | ids | {"pad_token_id": tokenizer.pad_token_id})).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)
