"""Attention within examples that lie end to end: the blocks of a block-diagonal mask, and nothing outside them."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as drop
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

SHORT = 128
"""Tokens up to which a CPU attends to all examples at once, padded: a call for each costs more than the padding."""


def attend_within_examples(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    lengths: list[int],
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention of examples that lie end to end, each to itself.

    query: (1, heads, tokens, head_dim); key, value: (1, key-value heads, tokens, head_dim).
    -> (1, tokens, heads, head_dim)
    """
    groups = query.shape[1] // key.shape[1]
    if query.device.type == "cpu" and max(lengths) <= SHORT:
        q, k, v = (as_padded(states, lengths) for states in (query, key, value))
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        attended = attend_at_once(q, repeat_heads(k, groups), repeat_heads(v, groups), scale=scale, dropout=dropout)
        return as_packed(attended, lengths), None
    blocks = zip(query.split(lengths, dim=2), key.split(lengths, dim=2), value.split(lengths, dim=2), strict=True)
    attended = [
        scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=groups > 1)
        for q, k, v in blocks
    ]
    return torch.cat(attended, dim=2).transpose(1, 2), None


def attend_at_once(query: Tensor, key: Tensor, value: Tensor, *, scale: float, dropout: float) -> Tensor:
    """Causal attention, all (examples, heads, width, head_dim). What is padded stands right, where nothing looks."""
    width = query.shape[2]
    right = torch.full((width, width), -torch.inf, device=query.device).triu(1)
    weights = ((query * scale) @ key.transpose(2, 3) + right).softmax(-1, dtype=torch.float32).to(value.dtype)
    return drop(weights, dropout) @ value if dropout else weights @ value


def repeat_heads(states: Tensor, groups: int) -> Tensor:
    """Grouped queries share a key-value head."""
    return states.repeat_interleave(groups, dim=1) if groups > 1 else states


def as_padded(states: Tensor, lengths: list[int]) -> Tensor:
    """(1, heads, tokens, head_dim) -> (examples, heads, longest, head_dim), zeros on the right"""
    width, rows = max(lengths), states[0].transpose(0, 1)
    padding = rows.new_zeros(width, *rows.shape[1:])
    parts = [part for example in rows.split(lengths) for part in (example, padding[: width - len(example)])]
    return torch.cat(parts).unflatten(0, (len(lengths), width)).transpose(1, 2)


def as_packed(states: Tensor, lengths: list[int]) -> Tensor:
    """(examples, heads, longest, head_dim) -> (1, tokens, heads, head_dim)"""
    width = states.shape[2]
    # Example, padding, example, padding ...: split, and not sliced, the gradient is put together at once.
    sizes = [size for length in lengths for size in (length, width - length)]
    return torch.cat(states.transpose(1, 2).flatten(0, 1).split(sizes)[::2])[None]


AttentionInterface.register("within_examples", attend_within_examples)
