"""Key-value cache of sequences that are being generated, and the attention of their next tokens.

    prefix    p0 p1 p2            shared by all prompts, such as exemplars: stored once
    row 0     a b c d . .         the rest of a prompt, then the generated tokens; the next token goes to the next place
    row 1     e f g h i .

When a row ends, the last row takes its place: the rows in use are always the first ones. No step waits for a GPU.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel

from eval.engine.prefix_attention import TokenStates
from open_instruct.common.devices import fits_varlen_kernel, has_varlen_kernel, to_device, width_for_kernels
from open_instruct.common.step_graph import StepGraph

Starts = tuple[torch.Tensor, torch.Tensor]
"""`row_starts` of one query a row, and of the keys."""


class KVCache:
    """Keys and values of up to `max_rows` sequences of up to `capacity` tokens each, without the shared prefix.

    With `fixed_shape` a step computes all rows and places, whether in use or not, so that it can be a CUDA graph.
    """

    def __init__(
        self, model: PreTrainedModel, prefix: TokenStates, *, max_rows: int, capacity: int, fixed_shape: bool
    ) -> None:
        self.prefix = prefix
        self.max_rows, self.capacity = max_rows, width_for_kernels(capacity) if fixed_shape else capacity
        self.states = torch.empty(0)
        """Keys and values (2, layers, max_rows, key heads, capacity, size); allocated with the first row."""
        self.lengths: list[int] = []
        """Tokens of each row in use."""
        self.uses_varlen = False
        """Whether a kernel reads the tokens of each row only; without it, the other places are masked."""
        self.graph = StepGraph(model.device) if fixed_shape else None
        self.inputs = torch.zeros(2, max_rows, dtype=torch.long, device=model.device)
        """Next token of each row and its place; of rows that are not in use, some token and place below `capacity`."""

    def add_rows(self, states: TokenStates, lengths: Sequence[int], next_tokens: torch.Tensor) -> None:
        """Add rows of these lengths from the concatenated keys and values of their tokens.  next_tokens: (rows,)"""
        added = torch.stack([*states.keys, *states.values]).unflatten(0, (2, -1))  # (2, layers, tokens, heads, size)
        if not self.states.numel():
            self.allocate(added)
        begin, rows = 0, slice(len(self.lengths), len(self.lengths) + len(lengths))
        for row, length in enumerate(lengths, rows.start):
            self.states[:, :, row, :, :length] = added[:, :, begin : begin + length].transpose(2, 3)
            begin += length
        places = to_device(np.array(lengths), self.inputs.device)
        self.inputs[:, rows] = torch.stack([next_tokens.clamp(min=0), places])
        self.lengths += lengths

    def allocate(self, added: torch.Tensor) -> None:
        """Allocate `states` in the order that suits the attention.  added: (2, layers, tokens, heads, size)"""
        layers, _, heads, size = added.shape[1:]
        has_kernel = has_varlen_kernel(added.device, added.dtype) and fits_varlen_kernel(size)
        self.uses_varlen = has_kernel and not self.prefix.num_tokens
        if self.uses_varlen:  # it reads all heads of a token together
            self.states = added.new_zeros(2, layers, self.max_rows, self.capacity, heads, size).transpose(3, 4)
        else:
            self.states = added.new_zeros(2, layers, self.max_rows, heads, self.capacity, size)

    def remove_row(self, row: int) -> None:
        """Remove a row; the last row takes its place."""
        last = len(self.lengths) - 1
        if row != last:
            length = self.lengths[last]
            self.states[:, :, row, :, :length] = self.states[:, :, last, :, :length]
            self.inputs[:, row] = self.inputs[:, last]
            self.lengths[row] = length
        self.lengths.pop()

    def decode(self, model: PreTrainedModel, choose: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Append its next token to each row, and choose the ones after them.  -> (rows,)

        choose: last hidden states (rows, hidden) -> tokens (rows,); negative ones stand for none
        """
        rows = len(self.lengths)
        if self.graph:
            hidden = self.graph(partial(self.step, model, self.inputs, width=self.capacity))[:rows]
        else:
            hidden = self.step(model, self.inputs[:, :rows], width=max(self.lengths) + 1)
        tokens = choose(hidden)
        self.inputs[:, :rows] = torch.stack([tokens.clamp(min=0), self.inputs[1, :rows] + 1])
        self.lengths = [length + 1 for length in self.lengths]
        return tokens

    def step(self, model: PreTrainedModel, inputs: torch.Tensor, *, width: int) -> torch.Tensor:
        """inputs: (2, rows), next tokens and their places, which are below `width`.  -> (rows, hidden)"""
        tokens, places = inputs
        mask, starts = None, None
        if self.uses_varlen:
            starts = (row_starts(torch.ones_like(places), 1), row_starts(places + 1, self.capacity))
        else:
            mask = mask_after(places, width, model.dtype)
        return model.base_model(
            input_ids=tokens[:, None],
            position_ids=(self.prefix.num_tokens + places)[:, None],
            use_cache=False,
            tree_attention=partial(self.attend, places=places, mask=mask, starts=starts),
        ).last_hidden_state[:, -1]

    def attend(
        self,
        layer: int,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        scaling: float,
        places: torch.Tensor,
        mask: torch.Tensor | None,
        starts: Starts | None,
    ) -> torch.Tensor:
        """With either a mask (rows, 1, 1, keys) or starts.  -> (rows, 1, heads, size)"""
        rows = len(places)
        all_keys, all_values = self.states[:, layer, :rows]
        index = torch.arange(rows, device=places.device)
        all_keys[index, :, places] = k[:, :, 0]
        all_values[index, :, places] = v[:, :, 0]
        # Several query heads may share a key head: (rows, key heads, queries, size)
        q = q[:, :, 0].unflatten(1, (all_keys.shape[1], -1))
        if starts is not None:
            return attend_to_tokens(q, all_keys, all_values, starts, scaling=scaling)
        assert mask is not None
        keys, values = (
            part[:, :, : mask.shape[-1]] for part in (all_keys, all_values)
        )  # (rows, key heads, keys, size)
        if self.graph and not self.prefix.num_tokens:
            return scaled_dot_product_attention(q, keys, values, mask, scale=scaling).flatten(1, 2)[:, None]
        q = q * scaling
        scores = q @ keys.transpose(-1, -2) + mask  # (rows, key heads, queries, keys)
        if not self.prefix.num_tokens:
            return (softmax(scores) @ values).flatten(1, 2)[:, None]  # (rows, 1, heads, size)
        # One product with the prefix's keys serves the queries of all rows: (key heads, rows x queries, size)
        by_head = q.transpose(0, 1)
        on_prefix = (by_head.flatten(1, 2) @ self.prefix.keys[layer].permute(1, 2, 0)).view(*by_head.shape[:3], -1)
        weights = softmax(torch.cat([on_prefix.transpose(0, 1), scores], dim=-1))
        prefix_weights, row_weights = weights.split([self.prefix.num_tokens, scores.shape[-1]], dim=-1)
        output = prefix_weights.transpose(0, 1).flatten(1, 2) @ self.prefix.values[layer].transpose(0, 1)
        output = output.view(by_head.shape).transpose(0, 1) + row_weights @ values
        return output.flatten(1, 2)[:, None]


def mask_after(places: torch.Tensor, width: int, dtype: torch.dtype) -> torch.Tensor:
    """Added to attention scores, it hides the keys after each row's place.  (rows,) -> (rows, 1, 1, width)"""
    is_hidden = torch.arange(width, device=places.device) > places[:, None]
    mask = torch.zeros(is_hidden.shape, dtype=dtype, device=places.device)
    return mask.masked_fill_(is_hidden, torch.finfo(dtype).min)[:, None, None]


def row_starts(lengths: torch.Tensor, capacity: int) -> torch.Tensor:
    """Where the tokens of each row start, and the places after them; and the end.  (rows,) -> (2 rows + 1,) int32"""
    begins = torch.arange(len(lengths), dtype=torch.int32, device=lengths.device) * capacity
    starts = torch.stack([begins, begins + lengths.int()], dim=1).flatten()
    return torch.nn.functional.pad(starts, (0, 1), value=len(lengths) * capacity)


def attend_to_tokens(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    starts: Starts,
    *,
    scaling: float,
) -> torch.Tensor:
    """Attention of the queries of each row to its tokens; the places after them are a sequence that no query reads.

    q: (rows, key heads, queries, size); keys, values: (rows, key heads, capacity, size)  -> (rows, 1, heads, size)
    """
    rows, _, num_queries, _ = q.shape
    capacity = keys.shape[2]
    q, keys, values = (part.transpose(1, 2).flatten(0, 1) for part in (q, keys, values))  # (tokens, key heads, size)
    out = varlen_attn(q, keys, values, starts[0] * num_queries, starts[1], num_queries, capacity, scale=scaling)
    assert isinstance(out, torch.Tensor)
    return out.unflatten(0, (rows, num_queries)).transpose(1, 2).flatten(1, 2)[:, None]


def softmax(scores: torch.Tensor) -> torch.Tensor:
    return scores.softmax(-1, dtype=torch.float32).to(scores.dtype)
