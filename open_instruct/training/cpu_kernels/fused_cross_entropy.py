"""Cross-entropy of the LM head, fused with its product to save memory traffic, which small models on a CPU wait for.

The only matrices as large as the embedding are its gradient and, in half precision, its copy. There is one matrix of
logits, which their gradient overwrites.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

NUMBERS_IN_CACHE = 2**19
"""2 MB of float32: one core's share of the cache."""


def summed_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """hidden: (n, d), of which the first are the targets'; weight: (vocabulary, d); targets: (targets,).

    -> () nats, summed.

    In autocast's precision the products, in float32 the softmax, as `cross_entropy(linear(hidden, weight).float())`.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    return SummedCrossEntropy.apply(hidden, weight, targets, dtype)  # pyright: ignore[reportReturnType]


class SummedCrossEntropy(Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        low_weight = weight.to(dtype)
        logits = hidden.to(dtype) @ low_weight.t()  # (n, vocabulary)
        log_p = hidden.new_empty(targets.shape, dtype=torch.float32)
        logits[len(targets) :] = 0
        for rows in parts(len(targets), logits.shape[1]):
            p, target = logits[rows].softmax(-1, dtype=torch.float32), targets[rows, None]
            # Not the logarithm of the target's p, which could be 0; that of the likeliest token cannot.
            above = logits[rows].gather(1, target).float() - logits[rows].amax(-1, keepdim=True)
            log_p[rows] = (above + p.amax(-1, keepdim=True).log())[:, 0]
            # The logits are not needed any more: their gradient overwrites them.
            logits[rows] = p.scatter_add_(1, target, p.new_full(target.shape, -1))
        ctx.save_for_backward(hidden, low_weight)
        ctx.of_logits, ctx.weight_dtype = logits, weight.dtype
        return -log_p.sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight = ctx.saved_tensors
        of_logits, ctx.of_logits = ctx.of_logits, None
        scaled = (hidden * grad).to(weight.dtype)
        of_weight = torch.empty_like(weight, dtype=ctx.weight_dtype)
        for columns in parts(len(weight), weight.shape[1]):
            of_weight[columns] = of_logits[:, columns].t() @ scaled
        return (of_logits @ weight).to(hidden.dtype) * grad, of_weight, None, None


def parts(num_rows: int, width: int) -> Iterator[slice]:
    """Slices of rows that stay in a processor's cache from one operation to the next."""
    num_at_once = max(1, NUMBERS_IN_CACHE // width)
    return (slice(first, min(first + num_at_once, num_rows)) for first in range(0, num_rows, num_at_once))
