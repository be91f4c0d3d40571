"""Continuous batching: sequences that are generated in the rows of a key-value cache.

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
from eval.engine.lm_head import check_token
from eval.engine.prefix_attention import TokenStates, forward, is_out_of_memory, prefix_attention
from eval.engine.prefix_tree import PrefixTree, Segment, common_prefix_length
from open_instruct.common.devices import to_device, to_host

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


@torch.inference_mode()
def generate_in_rows(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    next_tokens: NextTokens,
    *,
    end_ids: set[int],
    max_new_tokens: int,
    max_batch_tokens: int,
    batch_size: int | None,
    min_shared_prefix: int = MIN_SHARED_PREFIX,
    cuda_graph: bool = True,
) -> list[list[int]]:
    """Generate a continuation of each prompt, in the order of `prompts`; generation.py explains the arguments.

    -> generated tokens, the last of which is in `end_ids` or number `max_new_tokens`
    """
    with prefix_attention(model):
        prefix = prefill_shared_prefix(model, prompts, at_least=min_shared_prefix)
        batching = ContinuousBatching(model, prompts, prefix, end_ids, max_new_tokens, next_tokens)
        waiting = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        max_rows = batch_size or len(prompts)
        fixed_shape = cuda_graph and model.device.type == "cuda"
        while waiting:
            capacity = batching.capacity_for(waiting[0])
            # Much shorter prompts wait for narrower rows, of which more fit.
            num_similar = sum(2 * batching.capacity_for(index) > capacity for index in waiting)
            rows = max(1, min(max_rows, max_batch_tokens // capacity))
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
    return [batching.completed[index] for index in range(len(prompts))]


def shared_prefix(prompts: Sequence[list[int]], *, at_least: int = MIN_SHARED_PREFIX) -> list[int]:
    """First tokens that all prompts share, of which every prompt keeps at least one; [] where they are few."""
    if len(prompts) < 2:
        return []
    prefix = prompts[0][: min(map(len, prompts)) - 1]
    for prompt in prompts:
        prefix = prefix[: common_prefix_length(prefix, prompt)]
    return prefix if len(prefix) >= at_least else []


def prefill_shared_prefix(
    model: PreTrainedModel, prompts: Sequence[list[int]], *, at_least: int = MIN_SHARED_PREFIX
) -> TokenStates:
    """States of the tokens of `shared_prefix`."""
    prefix = shared_prefix(prompts, at_least=at_least)
    if not prefix:
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
