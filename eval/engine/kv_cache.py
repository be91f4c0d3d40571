"""Key-value cache of sequences that are being generated, and the attention of their next tokens.

    prefix    p0 p1 p2            shared by all prompts, such as exemplars: stored once
    row 0     a b c d . .         the rest of a prompt, then the generated tokens; the next token goes to the next place
    row 1     e f g h i .

When a row ends, the last row takes its place: the rows in use are always the first ones.
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from eval.engine.prefix_attention import TokenStates


class KVCache:
    """Keys and values of up to `max_rows` sequences of up to `capacity` tokens each, without the shared prefix."""

    def __init__(self, model: PreTrainedModel, prefix: TokenStates, *, max_rows: int, capacity: int) -> None:
        self.prefix = prefix
        self.max_rows, self.capacity = max_rows, capacity
        self.keys: list[torch.Tensor] = []
        """For each layer, (max_rows, key heads, capacity, size); allocated with the first row."""
        self.values: list[torch.Tensor] = []
        self.lengths: list[int] = []
        """Tokens of each row in use."""
        self.masked = torch.finfo(model.dtype).min
        self.mask = torch.full((max_rows, 1, 1, capacity), self.masked, dtype=model.dtype, device=model.device)
        """Added to the attention scores."""

    def add_rows(self, states: TokenStates, lengths: Sequence[int]) -> None:
        """Add rows of these lengths from the concatenated keys and values of their tokens."""
        if not self.keys:
            _, heads, size = states.keys[0].shape
            self.keys = [k.new_zeros(self.max_rows, heads, self.capacity, size) for k in states.keys]
            self.values = [v.new_zeros(self.max_rows, heads, self.capacity, size) for v in states.values]
        first = 0
        for length in lengths:
            row, tokens = len(self.lengths), slice(first, first + length)
            for layer, part in zip(self.keys + self.values, states.keys + states.values, strict=True):
                layer[row, :, :length] = part[tokens].transpose(0, 1)
            self.mask[row, ..., :length] = 0
            self.mask[row, ..., length:] = self.masked
            self.lengths.append(length)
            first += length

    def remove_row(self, row: int) -> None:
        """Remove a row; the last row takes its place."""
        last = len(self.lengths) - 1
        if row != last:
            length = self.lengths[last]
            for layer in self.keys + self.values:
                layer[row, :, :length] = layer[last, :, :length]
            self.mask[row] = self.mask[last]
            self.lengths[row] = length
        self.lengths.pop()

    def decode(self, model: PreTrainedModel, tokens: Sequence[int]) -> torch.Tensor:
        """Append one token to each row.  -> last hidden states of these tokens (rows, hidden)"""
        self.used = slice(0, len(tokens))
        self.index = torch.arange(len(tokens), device=model.device)
        self.places = torch.tensor(self.lengths, device=model.device)
        self.width = slice(0, max(self.lengths) + 1)
        self.mask[self.index, 0, 0, self.places] = 0
        hidden = model.base_model(
            input_ids=torch.tensor(tokens, device=model.device)[:, None],
            position_ids=(self.prefix.num_tokens + self.places)[:, None],
            use_cache=False,
            tree_attention=self.attend,
        ).last_hidden_state[:, -1]
        self.lengths = [length + 1 for length in self.lengths]
        return hidden

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scaling: float) -> torch.Tensor:
        self.keys[layer][self.index, :, self.places] = k[:, :, 0]
        self.values[layer][self.index, :, self.places] = v[:, :, 0]
        keys, values = (cache[layer][self.used, :, self.width] for cache in (self.keys, self.values))
        # Several query heads may share a key head: (rows, key heads, queries, size)
        q = q[:, :, 0].unflatten(1, (keys.shape[1], -1)) * scaling
        scores = q @ keys.transpose(-1, -2) + self.mask[self.used, :, :, self.width]  # (rows, key heads, queries, keys)
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
