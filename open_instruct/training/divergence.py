"""A run that diverges stops with one sentence: no saved state and no model has weights that are not finite.

Nothing here waits for a GPU at every step: the losses are read where a line of the log, a state or a model is written.
"""

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from open_instruct.common.errors import UserError


def diverged(what: str, step: int, *, last_loss: float | None, precision: str) -> UserError:
    """The error of a run whose loss, gradients or weights are not finite.

    what: "the loss is nan"; last_loss: the last finite one of a step, None where there was none.
    """
    if last_loss is None:
        cure = "give a model with finite weights" if precision == "no" else "try --mixed_precision no"
        return UserError(f"{what} at step {step}, and no loss before it was finite; lower --learning_rate, or {cure}")
    other = ", or train with --mixed_precision bf16 in place of fp16" if precision == "fp16" else ""
    found = f"training diverged after the last finite loss, {last_loss:.4g}"
    return UserError(f"{what} at step {step}: {found}; lower --learning_rate{other}")


def skips_overflows(accelerator: Accelerator) -> bool:
    """Whether a step whose gradients overflow is left out, while the loss is scaled to a range that fits fp16."""
    is_deepspeed = accelerator.distributed_type == DistributedType.DEEPSPEED
    return accelerator.scaler is not None or (is_deepspeed and accelerator.mixed_precision == "fp16")


@torch.no_grad()
def num_not_finite(module: nn.Module, device: torch.device) -> torch.Tensor:
    """-> () how many of the trained tensors, or of this process's shards of them, are not finite"""
    count = torch.zeros((), device=device)
    for parameter in module.parameters():
        if parameter.requires_grad:
            local: Any = getattr(parameter, "to_local", lambda whole=parameter: whole)()
            count += ~local.isfinite().all()
    return count
