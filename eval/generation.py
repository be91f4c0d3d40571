"""Text that a model writes after a prompt: greedy, or sampled by seed; the other way to ask a model is scoring.py.

Prompts of similar length share a batch, padded on the left, so that every row's next token stands in the last column:

    ids         . . a b c | d        mask      0 0 1 1 1 | 1
                e f g h i | j                  1 1 1 1 1 | 1
    position    0 0 0 1 2 | 3        A row that has ended leaves the batch, and its keys and values leave the cache.
                0 1 2 3 4 | 5
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache, PreTrainedModel

from open_instruct.records import UserError


@dataclass(frozen=True)
class Generated:
    ids: list[int]
    """Token ids that were written, EOS not included; a stop token is."""
    finished: bool
    """Whether EOS or a stop token ended it, rather than `max_new_tokens`."""


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    eos_id: int,
    stop_ids: Sequence[int] = (),
    max_batch_tokens: int = 16384,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> list[Generated]:
    """What the model writes after each prompt, in the order of `prompts`.

    The batch holds at most `max_batch_tokens` tokens, new ones included, and does not change what is written, beyond
    float noise: a sampled token depends on the seed, the prompt's index and the step only. Prompts are taken as they
    are: to cut long ones is the caller's job. `progress` is called after each batch with its number of prompts.

    Raises UserError for an empty prompt, for settings out of range, and for NaN logits.
    """
    check(prompts, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p)
    was_training = model.training
    model.eval()
    endings = {eos_id, *stop_ids}
    written: dict[int, list[int]] = {}
    for batch in batches(prompts, max_new_tokens=max_new_tokens, max_batch_tokens=max_batch_tokens):
        draws = uniform_draws(batch, seed=seed, steps=max_new_tokens).to(model.device) if do_sample else None

        def choose(
            logits: torch.Tensor, rows: list[int], step: int, draws: torch.Tensor | None = draws
        ) -> torch.Tensor:
            if draws is None:
                return most_likely(logits)
            return sample(logits, draws[rows, step], temperature=temperature, top_p=top_p)

        texts = write_batch(model, [prompts[i] for i in batch], choose, endings=endings, max_new_tokens=max_new_tokens)
        written.update(zip(batch, texts, strict=True))
        if progress:
            progress(len(batch))
    model.train(was_training)
    return [finish(written[index], eos_id=eos_id, endings=endings) for index in range(len(prompts))]


def check(prompts: Sequence[list[int]], *, max_new_tokens: int, temperature: float, top_p: float) -> None:
    empty = [index for index, ids in enumerate(prompts) if not ids]
    if empty:
        raise UserError(f"prompt {empty[0]} is empty; give an empty prompt as [EOS]")
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens is {max_new_tokens}; expected at least 1")
    if temperature <= 0:
        raise UserError(f"temperature is {temperature}; expected more than 0 (greedy decoding is without do_sample)")
    if not 0 < top_p <= 1:
        raise UserError(f"top_p is {top_p}; expected more than 0 and at most 1")


def batches(prompts: Sequence[list[int]], *, max_new_tokens: int, max_batch_tokens: int) -> Iterator[list[int]]:
    """Indices of prompts, longest first, in runs whose padded size keeps the bound; one that does not stands alone."""
    batch: list[int] = []
    for index in sorted(range(len(prompts)), key=lambda index: -len(prompts[index])):
        width = len(prompts[batch[0] if batch else index]) + max_new_tokens
        if batch and (len(batch) + 1) * width > max_batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def uniform_draws(indices: Sequence[int], *, seed: int, steps: int) -> torch.Tensor:
    """Numbers from [0, 1) that decide what is sampled.  -> (prompts, steps)"""
    # A generator for each prompt, so that what is written does not depend on what else is in the batch.
    return torch.stack([torch.rand(steps, generator=torch.Generator().manual_seed(seed + i)) for i in indices])


def write_batch(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    choose: Callable[[torch.Tensor, list[int], int], torch.Tensor],
    *,
    endings: set[int],
    max_new_tokens: int,
) -> list[list[int]]:
    """Token ids written after each prompt; one of `endings` is the last where the text has ended."""
    width = max(len(prompt) for prompt in prompts)
    padded = [[0] * (width - len(prompt)) + prompt for prompt in prompts]
    ids = torch.tensor(padded, device=model.device)  # (rows, width)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)  # (rows,)
    mask = torch.arange(width, device=model.device) >= width - lengths[:, None]  # (rows, width)
    position_ids = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    written: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))
    """Which prompt each row of the batch belongs to."""
    for step in range(max_new_tokens):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]  # (rows, vocabulary)
        tokens = choose(logits, rows, step)  # (rows,)
        chosen = tokens.tolist()
        for row, token in zip(rows, chosen, strict=True):
            written[row].append(token)
        open_rows = [i for i, token in enumerate(chosen) if token not in endings]
        if not open_rows:
            break
        if len(open_rows) < len(rows):
            rows = [rows[i] for i in open_rows]
            kept = torch.tensor(open_rows, device=model.device)
            tokens, mask, lengths = tokens[kept], mask[kept], lengths[kept]
            cache.batch_select_indices(kept)
        ids = tokens[:, None]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        position_ids = lengths[:, None] + step
    return written


def most_likely(logits: torch.Tensor) -> torch.Tensor:
    """(rows, vocabulary) -> (rows,) token ids.  Raises UserError for NaN logits."""
    values, tokens = logits.max(dim=-1)
    refuse_nan(values)
    return tokens


def sample(logits: torch.Tensor, draws: torch.Tensor, *, temperature: float, top_p: float) -> torch.Tensor:
    """(rows, vocabulary), (rows,) in [0, 1) -> (rows,) token ids, by inverting the distribution function.

    Of the tokens, the fewest most likely ones that together have probability `top_p` can be drawn.
    Raises UserError for NaN logits.
    """
    probabilities, tokens = (logits.float() / temperature).softmax(-1).sort(dim=-1, descending=True)
    refuse_nan(probabilities[:, 0])
    below = probabilities.cumsum(-1) - probabilities  # (rows, vocabulary): probability of all more likely tokens
    can_be_drawn = below < top_p
    total = (probabilities * can_be_drawn).sum(-1, keepdim=True)
    last_at_or_below = (can_be_drawn & (below <= draws[:, None] * total)).sum(-1, keepdim=True) - 1
    return tokens.gather(-1, last_at_or_below)[:, 0]


def refuse_nan(values: torch.Tensor) -> None:
    if values.isnan().any():
        raise UserError("the model gives logits that are NaN; its weights are broken, or overflow in fp16")


def finish(ids: list[int], *, eos_id: int, endings: set[int]) -> Generated:
    return Generated(ids[:-1] if ids[-1] == eos_id else ids, finished=ids[-1] in endings)
