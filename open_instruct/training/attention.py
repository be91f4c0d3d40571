"""Attention for training, without a mask: padding is on the right, and packed examples attend to themselves only."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from open_instruct.common.devices import fits_varlen_kernel, has_varlen_kernel
from open_instruct.common.errors import UserError
from open_instruct.training.batches import Batch

WITHOUT_MASK = "without_mask"
"""Name of this module's attention for transformers, whose own looks for masks in every forward pass, for which a GPU
has to wait."""
CAUSAL = (-1, 0)
"""Window of `varlen_attn`: all tokens before, none after."""


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

    Raises UserError where the model makes a mask of its own: what is learned in it may still be without effect.
    """
    if attention_mask is not None:
        raise UserError(f"{type(module).__name__} makes an attention mask of its own, which is not supported")
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


# No mask function of this name: transformers then makes no mask.
AttentionInterface.register(WITHOUT_MASK, attention_without_mask)
