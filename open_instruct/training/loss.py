"""The loss that is trained on: no logits where there is no target, and no more memory traffic than it takes."""

import ctypes
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from open_instruct.encode import IGNORED
from open_instruct.records import UserError

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of glibc's malloc.h."""


class TargetLoss(nn.Module):
    """A causal language model that returns the summed loss of its targets, and projects nothing else."""

    def __init__(self, model: Any) -> None:
        """model: a transformers model for causal language modelling, or a PeftModel of one."""
        super().__init__()
        self.model = model
        self._no_split_modules = getattr(self.language_model, "_no_split_modules", None)  # what FSDP wraps

    @property
    def language_model(self) -> Any:
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    def forward(self, ids: Tensor, labels: Tensor, lengths: list[int] | None = None) -> Tensor:
        """A Batch's fields.  -> () nats, summed over targets."""
        # Causal attention never looks right, so padding there needs no mask.
        packed: dict[str, Any] = {}
        if lengths is not None:
            positions = torch.cat([torch.arange(length, device=ids.device) for length in lengths])
            packed = {"position_ids": positions[None], "lengths": lengths}
        inner = self.language_model
        outputs = inner.base_model(input_ids=ids, use_cache=False, **packed)
        hidden = outputs.last_hidden_state[:, :-1]  # (batch, seq-1, d)
        targets = labels[:, 1:]
        is_target = targets != IGNORED
        logits = inner.get_output_embeddings()(hidden[is_target]).float()  # (targets, vocabulary)
        return cross_entropy(logits, targets[is_target], reduction="sum")


@torch.no_grad()
def check_projection(model: Any, *, packing: bool) -> None:
    """Raises UserError where the model does more between its last layer and its logits than its head does."""
    ids = torch.arange(4)[None]
    lengths = [ids.shape[1]] if packing else None
    model.eval()
    found = TargetLoss(model)(ids, ids, lengths)
    logits = model(input_ids=ids, use_cache=False, **({"lengths": lengths} if packing else {})).logits
    expected = cross_entropy(logits[0, :-1].float(), ids[0, 1:], reduction="sum")
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3):
        raise UserError(
            f"{type(model).__name__}: its logits are not its head's projection of its last layer "
            f"(loss {expected:.4f}, projected {found:.4f}), so finetune.py cannot train it"
        )


def spare_memory_traffic(loss: TargetLoss) -> None:
    """On a CPU small models wait for memory: a third of a step of a 17 M model with a vocabulary of 50 k went into it.

    The gradient of a tied embedding's rows is added to the head's without a matrix of zeros; and what is freed stays
    with the process, so that the kernel does not clear the same pages for every step.
    """
    inputs, head = loss.language_model.get_input_embeddings(), loss.language_model.get_output_embeddings()
    if isinstance(inputs, nn.Embedding) and inputs.weight is head.weight and inputs.weight.requires_grad:
        inputs.sparse = True
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
