"""Text generation, greedy or sampled, by continuous batching.

Prompts are processed in order of length, the longest first. A prefix that prompts share is computed once, and prompts
are prefilled without padding (prefix_tree.py). Then every row of the key-value cache decodes one token a step
(kv_cache.py). A sequence that has ended frees its row for the next prompt.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from transformers import PreTrainedModel

from eval.engine.kv_cache import KVCache
from eval.engine.lm_head import check_lm_head, check_token, full_logits, greedy_tokens, unless_nan
from eval.engine.prefix_attention import TokenStates, forward, is_out_of_memory, prefix_attention
from eval.engine.prefix_tree import PrefixTree, Segment, common_prefix_length
from open_instruct.common.devices import to_device, to_host
from open_instruct.common.errors import UserError

MAX_BATCH_TOKENS = {"cpu": 2**15, "cuda": 2**17}
"""Tokens of all sequences that are generated at once."""
MAX_PREFILL_TOKENS = {"cpu": 4096, "cuda": 16384}
"""Prompt tokens of one forward pass."""
MIN_SHARED_PREFIX = 32
"""A shorter prefix of all prompts is stored in each row instead of once."""
MAX_IN_FLIGHT = {"cpu": 0, "cuda": 1}
"""Steps that have been launched and whose tokens have not arrived, when the next one is launched."""
REFILL_FRACTION = 1 / 8
"""Fraction of the rows that must be free before new prompts are prefilled: each prefill costs a forward pass."""
NextTokens = Callable[[list[int], list[int], torch.Tensor], torch.Tensor]
"""Prompt index of each row, step of each row, hidden states (rows, hidden) -> next token of each row (rows,), -1 where
logits are NaN. Does not wait for a GPU."""


@dataclass(frozen=True)
class Generated:
    ids: list[int]
    """Generated token ids: without EOS, with a stop token."""
    finished: bool
    """Whether EOS or a stop token ended the sequence, rather than `max_new_tokens`."""


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    eos_id: int,
    stop_ids: Sequence[int] = (),
    max_batch_tokens: int | None = None,
    batch_size: int | None = None,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    cuda_graph: bool = True,
) -> list[Generated]:
    """Generate a continuation of each prompt, in the order of `prompts`.

    At most `batch_size` sequences are generated in parallel, with at most `max_batch_tokens` tokens in total (default:
    MAX_BATCH_TOKENS; new ones included, the shared prefix not), and fewer where memory runs out. This does not change
    the output, beyond float noise: a sampled token depends on the seed, the prompt's index and the step only. Prompts
    are not truncated here.

    Raises UserError for an empty prompt and for NaN logits.
    """
    if not all(prompts):
        raise UserError(f"prompt {prompts.index([])} is empty; give an empty prompt as [EOS]")
    check_lm_head(model)
    draws = uniform_draws(len(prompts), seed=seed, steps=max_new_tokens).to(model.device) if do_sample else None

    def next_tokens(indices: list[int], steps: list[int], hidden: torch.Tensor) -> torch.Tensor:
        if draws is None:
            return greedy_tokens(model, hidden)
        draw = draws[tuple(to_device(np.array([indices, steps]), model.device))]
        return sample(full_logits(model, hidden), draw, temperature=temperature, top_p=top_p)

    with prefix_attention(model):
        prefix = prefill_shared_prefix(model, prompts)
        batching = ContinuousBatching(model, prompts, prefix, {eos_id, *stop_ids}, max_new_tokens, next_tokens)
        waiting = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        max_rows, max_tokens = batch_size or len(prompts), max_batch_tokens or MAX_BATCH_TOKENS[model.device.type]
        fixed_shape = cuda_graph and model.device.type == "cuda"
        while waiting:
            capacity = batching.capacity_for(waiting[0])
            # Much shorter prompts wait for narrower rows, of which more fit.
            num_similar = sum(2 * batching.capacity_for(index) > capacity for index in waiting)
            rows = max(1, min(max_rows, max_tokens // capacity))
            # Batches of equal size: a last batch of a few rows costs nearly as much as a full one.
            rows = math.ceil(num_similar / math.ceil(num_similar / rows))
            sizes = {"max_rows": rows, "capacity": capacity}
            try:
                batching.run(waiting[:num_similar], KVCache(model, prefix, **sizes, fixed_shape=fixed_shape))
            except RuntimeError as error:
                if not is_out_of_memory(error, is_smallest=rows == 1):
                    raise
                max_rows = rows // 2
            waiting = [index for index in waiting if index not in batching.completed]
    sequences = (batching.completed[index] for index in range(len(prompts)))
    return [Generated(ids[:-1] if ids[-1] == eos_id else ids, ids[-1] in batching.end_ids) for ids in sequences]


def prefill_shared_prefix(model: PreTrainedModel, prompts: Sequence[list[int]]) -> TokenStates:
    """States of the prefix that all prompts share; empty where it is short."""
    if len(prompts) < 2:
        return TokenStates()
    # Every prompt keeps at least one token.
    prefix = prompts[0][: min(map(len, prompts)) - 1]
    for prompt in prompts:
        prefix = prefix[: common_prefix_length(prefix, prompt)]
    if len(prefix) < MIN_SHARED_PREFIX:
        return TokenStates()
    tree = PrefixTree(0)
    tree.add(Segment(0, 0, prefix))
    return forward(model, tree, TokenStates(), tree.path)[1]


@dataclass
class ContinuousBatching:
    """Sequences that are generated in the rows of a key-value cache.

    On a GPU a step is launched before the tokens of the step before have arrived on the host. A sequence that turns out
    to have ended has one token too many, which `receive` drops.
    """

    model: PreTrainedModel
    prompts: Sequence[list[int]]
    prefix: TokenStates
    """Of the tokens that all prompts share."""
    end_ids: set[int]
    """EOS and the stop tokens."""
    max_new_tokens: int
    next_tokens: NextTokens
    completed: dict[int, list[int]] = field(default_factory=dict)
    """Prompt index -> generated tokens, the last of which is in `end_ids` or number `max_new_tokens`."""

    def capacity_for(self, index: int) -> int:
        """Tokens that a row needs for this prompt and its continuation."""
        return len(self.prompts[index]) - self.prefix.num_tokens + self.max_new_tokens

    def run(self, indices: Sequence[int], cache: KVCache) -> None:
        """Generate after the prompts with these indices."""
        waiting, sequences = deque(indices), {}
        active: list[int] = []
        """Prompt index of each row."""
        num_tokens: Counter[int] = Counter()
        """Tokens of each sequence by prompt index, counting those that have not arrived."""
        in_flight: deque[tuple[list[int], Callable[[], list[int]]]] = deque()
        """Prompt indices, and the function that waits for their next tokens."""

        def remove_ended() -> None:
            for row in reversed(range(len(active))):
                if active[row] in self.completed or num_tokens[active[row]] == self.max_new_tokens:
                    cache.remove_row(row)
                    active[row] = active[-1]
                    active.pop()

        while waiting or active or in_flight:
            num_free = cache.max_rows - len(active)
            if waiting and num_free >= max(1, cache.max_rows * REFILL_FRACTION):
                batch = [waiting.popleft() for _ in range(min(num_free, len(waiting)))]
                for started, states in prefill(self.model, self.prompts, batch, self.prefix):
                    lengths = [len(self.prompts[index]) - self.prefix.num_tokens for index in started]
                    last = to_device(np.cumsum(lengths) - 1, self.model.device)
                    tokens = self.next_tokens(started, [0] * len(started), states.hidden[last])
                    cache.add_rows(states, lengths, tokens)
                    active += started
                    num_tokens.update(started)
                    sequences |= {index: [] for index in started}
                    in_flight.append((started, to_host(tokens)))
            elif active:
                steps = [num_tokens[index] for index in active]
                tokens = cache.decode(self.model, partial(self.next_tokens, active, steps))
                num_tokens.update(active)
                in_flight.append((list(active), to_host(tokens)))
            remove_ended()
            while len(in_flight) > (MAX_IN_FLIGHT[self.model.device.type] if active or waiting else 0):
                self.receive(sequences, *in_flight.popleft())
                remove_ended()

    def receive(self, sequences: dict[int, list[int]], indices: Sequence[int], tokens: Callable[[], list[int]]) -> None:
        """Append the next tokens of these prompts' sequences, and complete those that end with them."""
        for index, token in zip(indices, tokens(), strict=True):
            if index in self.completed:
                continue
            check_token(token)
            sequences[index].append(token)
            if token in self.end_ids or len(sequences[index]) == self.max_new_tokens:
                self.completed[index] = sequences[index]


def prefill(
    model: PreTrainedModel, prompts: Sequence[list[int]], indices: Sequence[int], prefix: TokenStates
) -> Iterator[tuple[list[int], TokenStates]]:
    """Pass by pass: indices of prompts, and the states of their tokens after `prefix`, concatenated."""
    order = sorted(indices, key=prompts.__getitem__)
    shared = [prefix.num_tokens, *(common_prefix_length(prompts[a], prompts[b]) for a, b in pairwise(order)), 0]
    cached, begin, max_tokens = prefix, 0, MAX_PREFILL_TOKENS[model.device.type]
    while begin < len(order):
        tree, own, end = PrefixTree(shared[begin]), [], begin
        while end == begin or (
            end < len(order) and len(tree.ids) + len(prompts[order[end]]) - shared[end] <= max_tokens
        ):
            tree.add(Segment(order[end], shared[end], prompts[order[end]][shared[end] :]))
            own.append(tree.path[prefix.num_tokens :])
            end += 1
        # First the cached prefix of the next pass, then the prompts' own tokens.
        _, states = forward(model, tree, cached, np.concatenate([tree.path[: shared[end]], *own]))
        cached = states.select(slice(0, shared[end]))
        yield order[begin:end], states.select(slice(shared[end], None))
        begin = end


def uniform_draws(num_prompts: int, *, seed: int, steps: int) -> torch.Tensor:
    """Uniform random numbers from [0, 1) for sampling.  -> (prompts, steps)"""
    # One generator for each prompt, so that its output does not depend on the rest of the batch.
    draws = [torch.rand(steps, generator=torch.Generator().manual_seed(seed + i)) for i in range(num_prompts)]
    return torch.stack(draws) if draws else torch.empty(0, steps)


def sample(logits: torch.Tensor, draws: torch.Tensor, *, temperature: float, top_p: float) -> torch.Tensor:
    """Sample by inverting the cumulative distribution.  (rows, vocabulary), (rows,) in [0, 1) -> (rows,) tokens

    Only the fewest most likely tokens whose probabilities add up to `top_p` can be sampled; -1 where logits are NaN.
    """
    probabilities, ordered = (logits / temperature).softmax(-1).sort(dim=-1, descending=True)
    below = probabilities.cumsum(-1) - probabilities  # (rows, vocabulary): probability of all more likely tokens
    in_nucleus = below < top_p
    total = (probabilities * in_nucleus).sum(-1, keepdim=True)
    last_at_or_below = (in_nucleus & (below <= draws[:, None] * total)).sum(-1, keepdim=True) - 1
    return unless_nan(ordered.gather(-1, last_at_or_below.clamp(min=0))[:, 0], probabilities[:, 0])
