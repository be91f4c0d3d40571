"""Attention for training, without a mask: padding is on the right, and packed examples attend to themselves only."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from open_instruct.common.devices import fits_varlen_kernel, has_varlen_kernel
from open_instruct.common.errors import UserError
from open_instruct.training.batches import Batch

PLAIN, WITHOUT_MASK = "sdpa", "without_mask"
"""Names for transformers: its own attention, which looks for masks in every forward pass, for which a GPU has to wait;
and the one of this module."""
CAUSAL = (-1, 0)
"""Window of `varlen_attn`: all tokens before, none after."""


@contextmanager
def plain_attention(model: Any) -> Iterator[None]:
    """Inside the block the model has transformers' own attention."""
    if model.config._attn_implementation != WITHOUT_MASK:
        yield
        return
    model.set_attn_implementation(PLAIN)
    try:
        yield
    finally:
        model.set_attn_implementation(WITHOUT_MASK)


def packed_arguments(batch: Batch) -> dict[str, Any]:
    """Arguments of the model's forward pass that separate packed examples; none for a padded batch."""
    if batch.lengths is None:
        return {}
    # A list would make compiled layers compile again for every batch.
    is_half = torch.is_autocast_enabled("cuda")
    if is_half and has_varlen_kernel(batch.ids.device, torch.get_autocast_dtype("cuda")):
        return {"position_ids": batch.position_ids, "starts": batch.starts, "longest": max(batch.lengths)}
    return {"position_ids": batch.position_ids, "lengths": batch.lengths}


def attention_without_mask(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    lengths: list[int] | None = None,
    starts: Tensor | None = None,
    longest: int = 0,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each row or, with one row, within each of the examples that are packed in it.

    query: (batch, heads, tokens, head_dim); key, value: (batch, key-value heads, tokens, head_dim)
    lengths: tokens of each packed example; or, in half precision on a GPU, starts: (examples + 1,) int32, and longest:
    tokens; options: passed on to transformers' function for scaled_dot_product_attention.
    -> (batch, tokens, heads, head_dim)
    """
    options |= {"dropout": dropout, "scaling": scaling}
    if lengths is None:
        if starts is None:
            return sdpa_attention_forward(module, query, key, value, None, **options)
        if not dropout and fits_varlen_kernel(query.shape[-1]) and query.shape[-1] == value.shape[-1]:
            return packed_kernel(query, key, value, starts, longest=longest, scaling=scaling), None
        lengths = starts.diff().tolist()  # the kernel has no dropout, nor such heads
    blocks = zip(query.split(lengths, dim=2), key.split(lengths, dim=2), value.split(lengths, dim=2), strict=True)
    return torch.cat([sdpa_attention_forward(module, *block, None, **options)[0] for block in blocks], dim=1), None


def packed_kernel(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, *, longest: int, scaling: float | None
) -> Tensor:
    """Attention of all packed examples by one kernel of a GPU."""
    dtype = torch.get_autocast_dtype("cuda")
    q, k, v = (part[0].transpose(0, 1).to(dtype) for part in (query, key, value))  # (tokens, heads, head_dim)
    if k.shape[1] != q.shape[1]:
        k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for part in (k, v))
    out: Any = varlen_attn(q, k, v, starts, starts, longest, longest, scale=scaling, window_size=CAUSAL)
    return out[None]


def needs_mask(config: Any, *, longest: int) -> bool:
    """Whether an example is longer than the model's sliding window.  config: of the model; longest: tokens"""
    window = getattr(config, "sliding_window", None)
    return window is not None and longest > window


def check_sliding_window(config: Any, *, longest: int) -> None:
    """Raise UserError if an example is longer than the model's sliding window: packed examples have no mask."""
    if needs_mask(config, longest=longest):
        window = config.sliding_window
        raise UserError(
            f"an example has {longest} tokens and the model's sliding window is {window}, which packed attention does "
            f"not support; leave --packing out, or cut examples by --max_seq_length {window}"
        )


# No mask function of this name: transformers then makes no mask.
AttentionInterface.register(WITHOUT_MASK, attention_without_mask)
