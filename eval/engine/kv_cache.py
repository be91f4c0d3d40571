"""Texts that are being written: their keys and values, and how the next token of each attends to them.

    common    p0 p1 p2            what all prompts begin with, such as exemplars: held once
    row 0     a b c d . .         its own part of the prompt, then what was written; the place after is written next
    row 1     e f g h i .

When a row ends, the last row takes its place, so that the rows in use are the first ones.
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from eval.engine.prefix_attention import Computed


class Rows:
    """Keys and values of up to `most` texts of up to `capacity` tokens each, the common ones aside."""

    def __init__(self, model: PreTrainedModel, common: Computed, *, most: int, capacity: int) -> None:
        self.common, self.num_common = common, common.num_tokens
        self.most, self.capacity = most, capacity
        self.keys: list[torch.Tensor] = []
        """Of each layer, (most, key heads, capacity, size); made when the first row comes."""
        self.values: list[torch.Tensor] = []
        self.lengths: list[int] = []
        """Tokens of each row in use."""
        self.hidden_value = torch.finfo(model.dtype).min
        self.mask = torch.full((most, 1, 1, capacity), self.hidden_value, dtype=model.dtype, device=model.device)
        """Added to the logits of the attention."""

    def put(self, computed: Computed, lengths: Sequence[int]) -> None:
        """New rows from the keys and values of their tokens, which lie end to end."""
        if not self.keys:
            _, heads, size = computed.keys[0].shape
            self.keys = [k.new_zeros(self.most, heads, self.capacity, size) for k in computed.keys]
            self.values = [v.new_zeros(self.most, heads, self.capacity, size) for v in computed.values]
        first = 0
        for length in lengths:
            row, tokens = len(self.lengths), slice(first, first + length)
            for layer, part in zip(self.keys + self.values, computed.keys + computed.values, strict=True):
                layer[row, :, :length] = part[tokens].transpose(0, 1)
            self.mask[row, ..., :length] = 0
            self.mask[row, ..., length:] = self.hidden_value
            self.lengths.append(length)
            first += length

    def drop(self, row: int) -> None:
        """Forget a row; the last one takes its place."""
        last = len(self.lengths) - 1
        if row != last:
            length = self.lengths[last]
            for layer in self.keys + self.values:
                layer[row, :, :length] = layer[last, :, :length]
            self.mask[row] = self.mask[last]
            self.lengths[row] = length
        self.lengths.pop()

    def step(self, model: PreTrainedModel, tokens: Sequence[int]) -> torch.Tensor:
        """The next token of each row -> its hidden state (rows, hidden)."""
        self.used = slice(0, len(tokens))
        self.index = torch.arange(len(tokens), device=model.device)
        self.places = torch.tensor(self.lengths, device=model.device)
        self.width = slice(0, max(self.lengths) + 1)
        self.mask[self.index, 0, 0, self.places] = 0
        hidden = model.base_model(
            input_ids=torch.tensor(tokens, device=model.device)[:, None],
            position_ids=(self.num_common + self.places)[:, None],
            use_cache=False,
            running=self,
        ).last_hidden_state[:, -1]
        self.lengths = [length + 1 for length in self.lengths]
        return hidden

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scaling: float) -> torch.Tensor:
        self.keys[layer][self.index, :, self.places] = k[:, :, 0]
        self.values[layer][self.index, :, self.places] = v[:, :, 0]
        keys, values = (of[layer][self.used, :, self.width] for of in (self.keys, self.values))
        # Several heads may share a key head: (rows, key heads, queries, size)
        q = q[:, :, 0].unflatten(1, (keys.shape[1], -1)) * scaling
        logits = q @ keys.transpose(-1, -2) + self.mask[self.used, :, :, self.width]  # (rows, key heads, queries, keys)
        if not self.num_common:
            return (weigh(logits) @ values).flatten(1, 2)[:, None]  # (rows, 1, heads, size)
        # One product with the common keys serves the queries of all rows: (key heads, rows x queries, size)
        of_head = q.transpose(0, 1)
        to_common = (of_head.flatten(1, 2) @ self.common.keys[layer].permute(1, 2, 0)).view(*of_head.shape[:3], -1)
        weights = weigh(torch.cat([to_common.transpose(0, 1), logits], dim=-1))
        on_common, on_own = weights.split([self.num_common, logits.shape[-1]], dim=-1)
        found = on_common.transpose(0, 1).flatten(1, 2) @ self.common.values[layer].transpose(0, 1)
        found = found.view(of_head.shape).transpose(0, 1) + on_own @ values
        return found.flatten(1, 2)[:, None]


def weigh(logits: torch.Tensor) -> torch.Tensor:
    return logits.softmax(-1, dtype=torch.float32).to(logits.dtype)
