"""Loss of gold completions in bits per byte, for models whose weights are changed between measurements."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from eval.prediction import requests


class GoldTexts(NamedTuple):
    encoded: list[requests.EncodedItem]
    num_bytes: int
    """Of all completions."""


def encode_golds(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, items: Sequence[Mapping[str, Any]]
) -> GoldTexts:
    """The items of an evaluation file for `bits_per_byte`.  Raises UserError where one is too long for the model."""
    pairs = requests.prompts_and_completions(items, [], chat=False)
    encoded = requests.encode_jointly(tokenizer, pairs)
    requests.count_too_long(
        [(len(item.context), item.num_continuation_tokens) for item in encoded],
        max_length=requests.max_length(model),
        max_new_tokens=0,
        num_first=0,  # nothing is truncated
        truncate_left=False,
        name="the evaluation file",
    )
    return GoldTexts(encoded, sum(len(completion.encode()) for _, completion in pairs))


def bits_per_byte(model: PreTrainedModel, texts: GoldTexts) -> float:
    nats = sum(gold["gold_logprob"] for gold in requests.gold_log_likelihoods(model, texts.encoded))
    return -nats / math.log(2) / texts.num_bytes
