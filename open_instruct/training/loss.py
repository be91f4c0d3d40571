"""The loss that is trained on: no logits where there is no target, and no more memory traffic than it takes."""

import ctypes
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
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
        self.embeds_in_place = False
        """Whether the embedding's gradient is added to the head's, whose matrix it shares, in place."""
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
        embedding = inner.get_input_embeddings()
        taken = {"inputs_embeds": embed_in_place(embedding, ids)} if self.embeds_in_place else {"input_ids": ids}
        outputs = inner.base_model(**taken, use_cache=False, **packed)
        hidden = outputs.last_hidden_state[:, :-1]  # (batch, seq-1, d)
        targets = labels[:, 1:]
        is_target = targets != IGNORED
        logits = inner.get_output_embeddings()(hidden[is_target])  # (targets, vocabulary)
        return summed_cross_entropy(logits, targets[is_target])


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


class SummedCrossEntropy(torch.autograd.Function):
    """In float32, with half of torch's own memory traffic: the gradient is made of the log-probabilities directly."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        """logits: (targets, vocabulary), of any precision.  targets: (targets,) ids.  -> () nats"""
        log_probabilities = logits.log_softmax(-1, dtype=torch.float32)
        ctx.save_for_backward(log_probabilities, targets)
        ctx.dtype = logits.dtype
        return -log_probabilities.gather(1, targets[:, None]).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        log_probabilities, targets = ctx.saved_tensors
        probabilities = log_probabilities.exp()
        probabilities[torch.arange(len(targets), device=targets.device), targets] -= 1
        scaled = torch.empty_like(probabilities, dtype=ctx.dtype)
        return torch.mul(probabilities, gradient, out=scaled), None


def summed_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    loss: Any = SummedCrossEntropy.apply(logits, targets)
    return loss


class InPlaceEmbedding(torch.autograd.Function):
    """Rows of a matrix that is the head's too. What they add to its gradient goes straight into `.grad`, where the
    head's lies by then; autograd would make a whole matrix of each and a third one for their sum."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, module: nn.Embedding, ids: Tensor) -> Tensor:
        """anchor: anything that needs a gradient, so that there is a backward pass.  -> (batch, seq, d)"""
        ctx.module, ctx.ids = module, ids
        return nn.functional.embedding(ids, module.weight.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        weight, padding = ctx.module.weight, ctx.module.padding_idx
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        ids, rows = ctx.ids.flatten(), gradient.flatten(0, 1)
        if padding is not None:
            is_text = ids != padding
            ids, rows = ids[is_text], rows[is_text]
        weight.grad.index_add_(0, ids, rows.to(weight.dtype))
        return None, None, None


def embed_in_place(module: nn.Embedding, ids: Tensor) -> Tensor:
    embedded: Any = InPlaceEmbedding.apply(torch.empty(0, requires_grad=True), module, ids)
    return embedded


def spare_memory_traffic(loss: TargetLoss) -> None:
    """On a CPU small models wait for memory: a third of a step of a 17 M model with a vocabulary of 50 k went into it.

    The gradient of a tied embedding's rows is added to the head's in place; and what is freed stays with the process,
    so that the kernel does not clear the same pages for every step.
    """
    inputs, head = loss.language_model.get_input_embeddings(), loss.language_model.get_output_embeddings()
    is_plain = type(inputs) is nn.Embedding and type(head) is nn.Linear
    loss.embeds_in_place = is_plain and inputs.weight is head.weight and inputs.weight.requires_grad
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
