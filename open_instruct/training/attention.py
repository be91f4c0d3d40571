"""Attention for training: the implementation to use, and one in which packed examples attend to themselves only."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.utils.import_utils import is_flash_attn_2_available

from open_instruct.common.errors import UserError


def attention_implementation(*, packing: bool, half_precision: bool) -> str:
    """Name, for transformers. Flash attention separates packed examples by their position ids."""
    if half_precision and torch.cuda.is_available() and is_flash_attn_2_available():
        return "flash_attention_2"
    return "packed" if packing else "sdpa"


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    lengths: list[int],
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each of the examples of one row.

    query: (1, heads, tokens, head_dim); key, value: (1, key-value heads, tokens, head_dim); lengths: tokens of each
    example; options: passed on to transformers' function for scaled_dot_product_attention.
    -> (1, tokens, heads, head_dim)
    """
    blocks = zip(query.split(lengths, dim=2), key.split(lengths, dim=2), value.split(lengths, dim=2), strict=True)
    return torch.cat([sdpa_attention_forward(module, *block, None, **options)[0] for block in blocks], dim=1), None


def check_sliding_window(config: Any, *, longest: int) -> None:
    """Raise UserError if an example is longer than the model's sliding window, which `packed_attention` ignores.

    config: of the model; longest: tokens.
    """
    window = getattr(config, "sliding_window", None)
    if window is not None and longest > window:
        raise UserError(
            f"an example has {longest} tokens and the model's sliding window is {window}, which packed attention does "
            f"not support; leave --packing out, or cut examples by --max_seq_length {window}"
        )


# No mask function for packed examples: a mask of all tokens by all tokens would be large, and is not used.
AttentionInterface.register("packed", packed_attention)
