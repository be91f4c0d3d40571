"""Rotary position embedding (Su et al., arXiv 2104.09864) in half the operations that autograd makes of it."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

Rotate = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class Rotated(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x: (batch, heads, tokens, d); cos, sin: (batch, 1, tokens, d), the first half of sin negative.  -> like x"""
        ctx.save_for_backward(cos, sin)
        # As transformers' function rounds, so that it is its equal bit for bit.
        precise = x.to(cos.dtype)
        return swapped_halves(precise).mul_(sin).add_(precise * cos).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        cos, sin = ctx.saved_tensors
        precise = grad.to(cos.dtype)
        return swapped_halves(precise * sin).add_(precise * cos).to(grad.dtype), None, None


def swapped_halves(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((second, first), dim=-1)


def rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """query, key: (batch, heads, tokens, d); cos, sin: (batch, tokens, d).  -> both in the precision they had"""
    first, second = sin.chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(1), torch.cat((-first, second), dim=-1).unsqueeze(1)
    return Rotated.apply(query, cos, sin), Rotated.apply(key, cos, sin)  # pyright: ignore[reportReturnType]


def rotate_faster(model: Any) -> None:
    """Put `rotate` in the place of transformers' function in the model's module, if on an example it does the same.

    Heads of which only a part is rotated are left to transformers.
    """
    module: Any = sys.modules[type(model).__module__]
    original: Rotate | None = getattr(module, "apply_rotary_pos_emb", None)
    if original is None or original.__module__ == __name__ or not does_the_same(original):
        return

    def apply_rotary_pos_emb(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, **options: Any) -> Any:
        if options or query.shape[-1] != cos.shape[-1]:
            return original(query, key, cos, sin, **options)
        return rotate(query, key, cos, sin)

    module.apply_rotary_pos_emb = apply_rotary_pos_emb


def does_the_same(original: Rotate) -> bool:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, heads, 3, 8, generator=generator) for heads in (4, 2))
    angles = torch.randn(1, 3, 4, generator=generator).repeat(1, 1, 2)
    given = query, key, angles.cos(), angles.sin()
    try:
        expected = original(*given)
    except (TypeError, ValueError, RuntimeError):  # another function of that name
        return False
    return all(torch.equal(one, other) for one, other in zip(rotate(*given), expected, strict=True))
