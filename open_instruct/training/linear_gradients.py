"""Gradients of linear layers' weights on a GPU: each a matrix product that writes float32 where the gradient belongs.

Autograd under autocast computes them in half precision, casts them and adds them to earlier ones, which moves several
times as many bytes and rounds. Megatron-LM's gradient accumulation fusion does the same in a kernel of its own.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Buffers = Mapping[nn.Parameter, Tensor]
"""Memory for gradients of weights; those of other weights get new memory."""


def write_linear_gradients(module: nn.Module, buffers: Buffers) -> None:
    """Let the trained linear layers inside `module` write or add to their weights' gradients themselves.

    Hooks of autograd on these weights, which several processes need, see no gradient then.
    """
    for layer in module.modules():
        if type(layer) is nn.Linear and layer.weight.requires_grad and layer.weight.is_leaf:
            layer.forward = partial(linear, layer, buffers)


def linear(layer: nn.Linear, buffers: Buffers, input: Tensor) -> Tensor:
    """As the layer's own forward pass, in autocast's precision.  (..., in_features) -> (..., out_features)"""
    if not torch.is_grad_enabled():
        return functional.linear(input, layer.weight, layer.bias)
    kind = input.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else input.dtype
    bias = None if layer.bias is None else layer.bias.to(dtype)
    return LinearProduct.apply(input.to(dtype), layer.weight, bias, buffers)


class LinearProduct(torch.autograd.Function):
    """Product with a weight, whose gradient the backward pass writes to `weight.grad` instead of returning it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: nn.Parameter, bias: Tensor | None, buffers: Buffers) -> Tensor:
        rounded = weight.to(x.dtype)
        ctx.save_for_backward(x, rounded)
        ctx.weight, ctx.buffers = weight, buffers
        return functional.linear(x, rounded, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, rounded = ctx.saved_tensors
        needs_x, _, needs_bias, _ = ctx.needs_input_grad
        d_out, x = (part.reshape(-1, part.shape[-1]) for part in (gradients[0], x))
        add_product(ctx.weight, d_out.T, x, ctx.buffers)
        d_x = gradients[0] @ rounded if needs_x else None
        return d_x, None, d_out.sum(0) if needs_bias else None, None


def add_product(weight: nn.Parameter, a: Tensor, b: Tensor, buffers: Buffers) -> None:
    """Add the product of two matrices to `weight.grad`, or make it the gradient where there is none."""
    options: dict[str, Any] = {"out_dtype": weight.dtype} if a.dtype != weight.dtype else {}
    if weight.grad is None:
        weight.grad = torch.mm(a, b, out=buffers.get(weight), **options)
    else:
        torch.addmm(weight.grad, a, b, out=weight.grad, **options)
