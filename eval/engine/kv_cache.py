"""Key-value cache of sequences that are being generated, and the attention of their next tokens.

    prefix    p0 p1 p2            shared by all prompts, such as exemplars: stored once
    row 0     a b c d . .         the rest of a prompt, then the generated tokens; the next token goes to the next place
    row 1     e f g h i .

When a row ends, the last row takes its place: the rows in use are always the first ones.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel

from eval.engine.devices import width_for_kernels
from eval.engine.prefix_attention import TokenStates
from open_instruct.common.step_graph import StepGraph


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
        self.masked = torch.finfo(model.dtype).min
        self.mask = torch.full((max_rows, self.capacity), self.masked, dtype=model.dtype, device=model.device)
        """Added to the attention scores."""
        self.graph = StepGraph(model.device) if fixed_shape else None
        self.inputs = torch.zeros(2, max_rows, dtype=torch.long, device=model.device)
        """Next token and its place, for the graph; 0 in rows that are not in use, of which nothing is read."""

    def add_rows(self, states: TokenStates, lengths: Sequence[int]) -> None:
        """Add rows of these lengths from the concatenated keys and values of their tokens."""
        added = torch.stack([*states.keys, *states.values]).unflatten(0, (2, -1))  # (2, layers, tokens, heads, size)
        if not self.states.numel():
            _, layers, _, heads, size = added.shape
            self.states = added.new_zeros(2, layers, self.max_rows, heads, self.capacity, size)
        begin, rows = 0, slice(len(self.lengths), len(self.lengths) + len(lengths))
        for row, length in enumerate(lengths, rows.start):
            self.states[:, :, row, :, :length] = added[:, :, begin : begin + length].transpose(2, 3)
            begin += length
        is_token = torch.arange(self.capacity) < torch.tensor(lengths)[:, None]
        self.mask[rows] = torch.full(is_token.shape, self.masked, dtype=self.mask.dtype).masked_fill_(is_token, 0)
        self.lengths += lengths

    def remove_row(self, row: int) -> None:
        """Remove a row; the last row takes its place."""
        last = len(self.lengths) - 1
        if row != last:
            length = self.lengths[last]
            self.states[:, :, row, :, :length] = self.states[:, :, last, :, :length]
            self.mask[row] = self.mask[last]
            self.lengths[row] = length
        self.lengths.pop()

    def decode(self, model: PreTrainedModel, tokens: Sequence[int]) -> torch.Tensor:
        """Append one token to each row.  -> last hidden states of these tokens (rows, hidden), until the next step"""
        inputs = torch.tensor([tokens, self.lengths])
        if self.graph:
            self.inputs.copy_(torch.nn.functional.pad(inputs, (0, self.max_rows - len(tokens))))
            hidden = self.graph(partial(self.step, model, self.inputs, width=self.capacity))[: len(tokens)]
        else:
            hidden = self.step(model, inputs.to(model.device), width=max(self.lengths) + 1)
        self.lengths = [length + 1 for length in self.lengths]
        return hidden

    def step(self, model: PreTrainedModel, inputs: torch.Tensor, *, width: int) -> torch.Tensor:
        """inputs: (2, rows), next tokens and their places, which are below `width`.  -> (rows, hidden)"""
        tokens, places = inputs
        self.mask[: len(tokens)].scatter_(1, places[:, None], 0.0)
        return model.base_model(
            input_ids=tokens[:, None],
            position_ids=(self.prefix.num_tokens + places)[:, None],
            use_cache=False,
            tree_attention=partial(self.attend, places=places, width=width),
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
        width: int,
    ) -> torch.Tensor:
        rows = len(places)
        all_keys, all_values = self.states[:, layer, :rows]
        index = torch.arange(rows, device=places.device)
        all_keys[index, :, places] = k[:, :, 0]
        all_values[index, :, places] = v[:, :, 0]
        keys, values = all_keys[:, :, :width], all_values[:, :, :width]  # (rows, key heads, keys, size)
        # Several query heads may share a key head: (rows, key heads, queries, size)
        q, mask = q[:, :, 0].unflatten(1, (keys.shape[1], -1)), self.mask[:rows, None, None, :width]
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


def softmax(scores: torch.Tensor) -> torch.Tensor:
    return scores.softmax(-1, dtype=torch.float32).to(scores.dtype)
