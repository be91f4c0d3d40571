"""Text that a model writes after a prompt: greedy, or sampled by seed; the other way to ask a model is scoring.py.

The longest prompts come first. What prompts have in common is computed once, and their own parts end to end without
padding (forest.py); then every row writes a token a step (decoding.py). A text that has ended leaves its row to another
prompt, so that no step computes what nobody reads.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import torch
from transformers import PreTrainedModel

from eval.engine.greedy_head import Likeliest
from eval.engine.kv_cache import Rows
from eval.engine.lm_head import all_logits, check_head
from eval.engine.prefix_attention import (
    Computed,
    compute,
    is_lack_of_memory,
    own_attention,
)
from eval.engine.prefix_tree import Forest, Strand, num_shared
from open_instruct.common.errors import UserError

MAX_BATCH_TOKENS = 32768
MAX_PASS_TOKENS = 4096
"""Prompt tokens that are computed in one pass."""
LEAST_COMMON = 32
"""Tokens that all prompts must begin with to be held once: fewer are held in each row."""
SHARE_REFILLED = 1 / 8
"""Of the rows that must be free before new prompts are computed: each time costs a pass more."""
Choose = Callable[[torch.Tensor, list[int], list[int]], torch.Tensor]
"""Hidden states (rows, hidden), each row's prompt, each row's step -> the next token of each row (rows,)."""


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
    max_batch_tokens: int = MAX_BATCH_TOKENS,
    batch_size: int | None = None,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> list[Generated]:
    """What the model writes after each prompt, in the order of `prompts`.

    At most `batch_size` texts are written at once, of at most `max_batch_tokens` tokens together, new ones included and
    common ones not. Neither changes what is written, beyond float noise: a sampled token depends on the seed, the
    prompt's index and the step only. Where memory does not suffice, fewer are written at once. Prompts are taken as
    they are: to cut long ones is the caller's job. `progress` is called with the number of texts that have ended.

    Raises UserError for an empty prompt, for settings out of range, and for NaN logits.
    """
    check(prompts, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p)
    check_head(model)
    endings = {eos_id, *stop_ids}
    likeliest = Likeliest(model)
    draws = uniform_draws(len(prompts), seed=seed, steps=max_new_tokens).to(model.device) if do_sample else None

    def choose(hidden: torch.Tensor, indices: list[int], steps: list[int]) -> torch.Tensor:
        if draws is None:
            return likeliest(hidden)
        return sample(all_logits(model, hidden), draws[indices, steps], temperature=temperature, top_p=top_p)

    with own_attention(model):
        common = common_beginning(model, prompts)
        writer = Writer(model, prompts, common, endings, max_new_tokens, choose, progress)
        waiting = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        most = batch_size or len(prompts)
        while waiting:
            capacity = writer.num_places(waiting[0])
            # Much shorter prompts wait for narrower rows, of which there can be more.
            num_similar = sum(2 * writer.num_places(index) > capacity for index in waiting)
            rows = max(1, min(most, max_batch_tokens // capacity))
            # As many turns as it takes, all of a size: a last turn of a few rows costs nearly as much as a full one.
            rows = math.ceil(num_similar / math.ceil(num_similar / rows))
            try:
                writer.write(waiting[:num_similar], Rows(model, common, most=rows, capacity=capacity))
            except RuntimeError as error:
                if not is_lack_of_memory(error, at_least=rows == 1):
                    raise
                most = rows // 2
            waiting = [index for index in waiting if index not in writer.written]
    return [finish(writer.written[index], eos_id=eos_id, endings=endings) for index in range(len(prompts))]


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


def common_beginning(model: PreTrainedModel, prompts: Sequence[list[int]]) -> Computed:
    """What was computed for the tokens that all prompts begin with; nothing where they are few."""
    if not prompts:
        return Computed()
    # Every prompt keeps a token of its own.
    common = prompts[0][: min(map(len, prompts)) - 1]
    for prompt in prompts:
        common = common[: num_shared(common, prompt)]
    if len(common) < LEAST_COMMON or len(prompts) == 1:
        return Computed()
    forest = Forest(0)
    forest.add(Strand(0, 0, common))
    return compute(model, forest, Computed(), forest.path)[1]


@dataclass
class Writer:
    """Texts as they are written."""

    model: PreTrainedModel
    prompts: Sequence[list[int]]
    common: Computed
    endings: set[int]
    max_new_tokens: int
    choose: Choose
    progress: Callable[[int], object] | None
    written: dict[int, list[int]] = field(default_factory=dict)
    """Texts that have ended; one of `endings` is their last token, or they are `max_new_tokens` long."""

    def num_places(self, index: int) -> int:
        """Tokens that a row must be able to hold for this prompt."""
        return len(self.prompts[index]) - self.common.num_tokens + self.max_new_tokens

    def write(self, indices: Sequence[int], rows: Rows) -> None:
        """Write after the prompts of these indices."""
        waiting, texts = deque(indices), {}
        holders: list[int] = []
        """Which prompt each row belongs to."""
        while waiting or holders:
            num_free = rows.most - len(holders)
            if waiting and num_free >= max(1, rows.most * SHARE_REFILLED):
                taken = [waiting.popleft() for _ in range(min(num_free, len(waiting)))]
                for begun, computed in read(self.model, self.prompts, taken, self.common):
                    lengths = [len(self.prompts[index]) - self.common.num_tokens for index in begun]
                    rows.put(computed, lengths)
                    holders += begun
                    last = [end - 1 for end in accumulate(lengths)]
                    tokens = self.choose(computed.last_hidden[last], begun, [0] * len(begun)).tolist()
                    texts |= {index: [token] for index, token in zip(begun, tokens, strict=True)}
            else:
                hidden = rows.step(self.model, [texts[index][-1] for index in holders])
                tokens = self.choose(hidden, holders, [len(texts[index]) for index in holders]).tolist()
                for index, token in zip(holders, tokens, strict=True):
                    texts[index].append(token)
            self.remove_ended(holders, texts, rows)

    def remove_ended(self, holders: list[int], texts: dict[int, list[int]], rows: Rows) -> None:
        num_before = len(holders)
        for row in reversed(range(num_before)):
            text = texts[holders[row]]
            if text[-1] in self.endings or len(text) == self.max_new_tokens:
                self.written[holders[row]] = texts.pop(holders[row])
                rows.drop(row)
                holders[row] = holders[-1]
                holders.pop()
        if self.progress and len(holders) < num_before:
            self.progress(num_before - len(holders))


def read(
    model: PreTrainedModel, prompts: Sequence[list[int]], indices: Sequence[int], common: Computed
) -> Iterator[tuple[list[int], Computed]]:
    """Some of the prompts, and what was computed for their own tokens, which lie end to end; until all were there."""
    order = sorted(indices, key=prompts.__getitem__)
    shared = [common.num_tokens, *(num_shared(prompts[a], prompts[b]) for a, b in pairwise(order)), 0]
    chain, begin = common, 0
    while begin < len(order):
        forest, own, end = Forest(shared[begin]), [], begin
        while end == begin or (
            end < len(order) and len(forest.ids) + len(prompts[order[end]]) - shared[end] <= MAX_PASS_TOKENS
        ):
            forest.add(Strand(order[end], shared[end], prompts[order[end]][shared[end] :]))
            own += forest.path[common.num_tokens :]
            end += 1
        # What the next pass begins with, then what is asked for.
        _, computed = compute(model, forest, chain, forest.path[: shared[end]] + own)
        chain = computed.part(slice(0, shared[end]))
        yield order[begin:end], computed.part(slice(shared[end], None))
        begin = end


def uniform_draws(num_prompts: int, *, seed: int, steps: int) -> torch.Tensor:
    """Numbers from [0, 1) that decide what is sampled.  -> (prompts, steps)"""
    # A generator for each prompt, so that what is written does not depend on what else is in the batch.
    of_prompts = [torch.rand(steps, generator=torch.Generator().manual_seed(seed + i)) for i in range(num_prompts)]
    return torch.stack(of_prompts) if of_prompts else torch.empty(0, steps)


def sample(logits: torch.Tensor, draws: torch.Tensor, *, temperature: float, top_p: float) -> torch.Tensor:
    """(rows, vocabulary), (rows,) in [0, 1) -> (rows,) token ids, by inverting the distribution function.

    Of the tokens, the fewest most likely ones that together have probability `top_p` can be drawn.
    """
    probabilities, tokens = (logits / temperature).softmax(-1).sort(dim=-1, descending=True)
    below = probabilities.cumsum(-1) - probabilities  # (rows, vocabulary): probability of all more likely tokens
    can_be_drawn = below < top_p
    total = (probabilities * can_be_drawn).sum(-1, keepdim=True)
    last_at_or_below = (can_be_drawn & (below <= draws[:, None] * total)).sum(-1, keepdim=True) - 1
    return tokens.gather(-1, last_at_or_below)[:, 0]


def finish(ids: list[int], *, eos_id: int, endings: set[int]) -> Generated:
    return Generated(ids[:-1] if ids[-1] == eos_id else ids, finished=ids[-1] in endings)
