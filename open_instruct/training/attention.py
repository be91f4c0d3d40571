"""Attention within examples that lie end to end: the blocks of a block-diagonal mask, and nothing outside them."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

FEW_TOKENS = 128
"""In examples up to here and in half precision, torch's fused attention on CPUs is slower than its parts."""


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
    is_short = max(lengths) <= FEW_TOKENS and query.device.type == "cpu" and query.dtype != torch.float32
    blocks = zip(query.split(lengths, dim=2), key.split(lengths, dim=2), value.split(lengths, dim=2), strict=True)
    with sdpa_kernel(SDPBackend.MATH) if is_short else nullcontext():
        attended = [
            scaled_dot_product_attention(
                q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=groups > 1
            )
            for q, k, v in blocks
        ]
    return torch.cat(attended, dim=2).transpose(1, 2), None


AttentionInterface.register("within_examples", attend_within_examples)
