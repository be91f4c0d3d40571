"""Text generation by transformers' generate, for every model that it can run.

Prompts of one length form a batch: models with recurrent layers, among others, have no place for padding.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from eval.engine.lm_head import check_token
from eval.engine.prefix_attention import is_out_of_memory

FromLogits = Callable[[list[int], list[int], torch.Tensor], torch.Tensor]
"""Prompt index of each row, step of each row, logits (rows, vocabulary) -> next token of each row (rows,), -1 where
logits are NaN."""


class ForcedTokens(LogitsProcessor):
    """Leaves one token possible in each row: the one that `next_tokens` gives."""

    def __init__(self, next_tokens: FromLogits, indices: list[int], *, prompt_length: int, end_ids: set[int]) -> None:
        """indices: of the prompts in the rows"""
        self.next_tokens, self.indices = next_tokens, indices
        self.prompt_length, self.end_ids = prompt_length, end_ids

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> Any:
        """(rows, tokens so far), (rows, vocabulary) -> (rows, vocabulary)"""
        step = input_ids.shape[1] - self.prompt_length
        tokens = self.next_tokens(self.indices, [step] * len(self.indices), scores)
        for last, token in zip(input_ids[:, -1].tolist(), tokens.tolist(), strict=True):
            if step == 0 or last not in self.end_ids:  # what follows an end is padding
                check_token(token)
        return torch.full_like(scores, float("-inf")).scatter(-1, tokens.clamp(min=0)[:, None], 0.0)


def generate_by_transformers(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    next_tokens: FromLogits,
    *,
    end_ids: set[int],
    max_new_tokens: int,
    max_batch_tokens: int,
    batch_size: int | None,
    use_cache: bool,
) -> list[list[int]]:
    """Generate a continuation of each prompt, in the order of `prompts`; generation.py explains the arguments.

    -> generated tokens, the last of which is in `end_ids` or number `max_new_tokens`
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        by_length[len(prompt)].append(index)
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": False, "use_cache": use_cache}
    if end_ids:
        settings |= {"eos_token_id": sorted(end_ids), "pad_token_id": min(end_ids)}
    found: dict[int, list[int]] = {}
    # A folder may have settings of its own, such as a penalty of repetitions, that generate would merge in.
    generate: Any = model.generate
    own_settings, was_training = model.generation_config, model.training
    model.generation_config = GenerationConfig()
    model.eval()
    try:
        for length, indices in sorted(by_length.items(), reverse=True):
            rows = max(1, min(batch_size or len(indices), max_batch_tokens // (length + max_new_tokens)))
            waiting = iter(indices)
            while batch := list(islice(waiting, rows)):
                processor = ForcedTokens(next_tokens, batch, prompt_length=length, end_ids=end_ids)
                ids = torch.tensor([prompts[index] for index in batch], device=model.device)
                try:
                    output = generate(
                        ids,
                        attention_mask=torch.ones_like(ids),
                        generation_config=GenerationConfig(**settings),
                        logits_processor=LogitsProcessorList([processor]),
                    )
                except RuntimeError as error:
                    if not is_out_of_memory(error, is_smallest=len(batch) == 1):
                        raise
                    rows, waiting = len(batch) // 2, iter([*batch, *waiting])
                    continue
                found |= {
                    index: until_end(row, end_ids)
                    for index, row in zip(batch, output[:, length:].tolist(), strict=True)
                }
    finally:
        model.generation_config = own_settings
        model.train(was_training)
    return [found[index] for index in range(len(prompts))]


def until_end(tokens: list[int], end_ids: set[int]) -> list[int]:
    """The tokens up to the first that ends a sequence, that one included."""
    end = next((place for place, token in enumerate(tokens) if token in end_ids), len(tokens) - 1)
    return tokens[: end + 1]
