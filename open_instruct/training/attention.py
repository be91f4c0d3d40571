"""Attention within examples: padded ones, a batch at once; packed ones, that lie end to end, each by itself."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from open_instruct.common.errors import UserError

FEW_TOKENS = 128
"""In examples up to here and in half precision, torch's fused attention on CPUs is slower than its parts."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    lengths: list[int] | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention: of each row to itself, or where `lengths` are given, of each example of the one row to itself.

    query: (batch, heads, tokens, head_dim); key, value: (batch, key-value heads, tokens, head_dim);
    options: what transformers gives its own function for scaled_dot_product_attention.
    -> (batch, tokens, heads, head_dim)
    """
    if lengths is None:
        return attend_to_all(module, query, key, value, attention_mask, **options), None
    blocks = zip(query.split(lengths, dim=2), key.split(lengths, dim=2), value.split(lengths, dim=2), strict=True)
    return torch.cat([attend_to_all(module, *block, None, **options) for block in blocks], dim=1), None


def attend_to_all(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> Tensor:
    is_short = query.shape[2] <= FEW_TOKENS and query.device.type == "cpu" and query.dtype != torch.float32
    is_plain = attention_mask is None and not any(options.get(o) for o in ("dropout", "softcap"))
    if is_short and is_plain and options.get("position_bias") is None:
        return attend_by_parts(query, key, value, options.get("scaling")).transpose(1, 2)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)[0]


def attend_by_parts(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    """Products in the precision given, the softmax in float32.  -> like query"""
    groups, (num_tokens, head_dim) = query.shape[1] // key.shape[1], query.shape[2:]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    future = query.new_full((num_tokens, num_tokens), -torch.inf).triu(1)
    scores = query * (scaling or head_dim**-0.5) @ key.mT + future
    return scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value


def require_window(config: Any, *, longest: int) -> None:
    """Raises UserError where a packed example is longer than the model's sliding window, which `attend` does not know.

    config: of the model; longest: tokens.
    """
    window = getattr(config, "sliding_window", None)
    if window is not None and longest > window:
        raise UserError(
            f"an example has {longest} tokens and the model's sliding window {window}, which packed attention does not "
            f"know; leave --packing out, or cut examples by --max_seq_length {window}"
        )


AttentionInterface.register("padded", attend)
AttentionMaskInterface.register("padded", sdpa_mask)
# Without a mask, which would be of all tokens by all tokens.
AttentionInterface.register("packed", attend)
