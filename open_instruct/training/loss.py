"""Cross-entropy of the target tokens: positions without a target are left out of the head and the last MLP.

Where that is right for the model (ways.py); otherwise its own forward pass computes all positions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from open_instruct.common.plain_pass import plain_logits
from open_instruct.training.attention import packed_arguments
from open_instruct.training.batches import Batch
from open_instruct.training.cpu_kernels.fused_cross_entropy import summed_cross_entropy
from open_instruct.training.cpu_kernels.malloc import keep_freed_memory

Shortcut = Literal["head and last MLP", "head", "none"]
"""What is computed at targets only."""
MAX_LOGITS = 2**28
"""Targets x vocabulary that are in memory at once, 1 GiB in float32; those of more targets are computed again for the
backward pass."""


class TargetLoss(nn.Module):
    """A causal language model whose forward pass returns the summed loss of the targets."""

    def __init__(self, model: Any, shortcut: Shortcut = "head and last MLP") -> None:
        """model: a transformers model for causal language modelling, or a PeftModel of one."""
        super().__init__()
        self.model, self.shortcut = model, shortcut
        self.is_fused = False
        self._no_split_modules = getattr(self.language_model, "_no_split_modules", None)  # FSDP wraps these

    @property
    def language_model(self) -> Any:
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    def forward(self, *fields: Any) -> Tensor:
        """Fields of a Batch.  -> () nats, summed over targets"""
        batch = Batch(*fields)
        if self.shortcut == "none":
            return cross_entropy(self.target_logits(batch), batch.targets, reduction="sum")
        head, hidden = self.language_model.get_output_embeddings(), self.target_states(batch)
        if self.is_fused:
            return summed_cross_entropy(hidden, head.weight, batch.targets)
        return loss_by_parts(head, hidden, batch.targets)

    def target_logits(self, batch: Batch) -> Tensor:
        """Logits in float32 at the positions that predict the targets.  -> (targets, vocabulary)"""
        inner = self.language_model
        if self.shortcut != "none":
            return inner.get_output_embeddings()(self.target_states(batch)).float()
        logits = plain_logits(inner, batch.ids, **packed_arguments(batch))
        return logits.flatten(0, 1).index_select(0, batch.places).float()

    def target_states(self, batch: Batch) -> Tensor:
        """Last hidden states at those positions.  -> (targets, d)"""
        inner = self.language_model
        # Padding is on the right, and causal attention looks left only: no mask is needed.
        with only_at(batch.places, last_mlp(inner) if self.shortcut == "head and last MLP" else None):
            states = inner.base_model(input_ids=batch.ids, use_cache=False, **packed_arguments(batch)).last_hidden_state
        return states.flatten(0, 1).index_select(0, batch.places)


def loss_by_parts(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    """Summed cross-entropy, with at most MAX_LOGITS logits in memory at a time.  (targets, d), (targets,) -> ()"""
    num_at_once = max(1, MAX_LOGITS // getattr(head, "out_features", 1))
    if len(targets) <= num_at_once:
        return summed_loss(head, hidden, targets)
    parts = zip(hidden.split(num_at_once), targets.split(num_at_once), strict=True)
    # Nothing in it is random, and a CUDA graph may not save the state of random numbers.
    losses = [checkpoint(summed_loss, head, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    return torch.stack(losses).sum()


def summed_loss(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(head(hidden).float(), targets, reduction="sum")


def last_mlp(language_model: Any) -> nn.Module | None:
    """MLP of the last layer; None where the model has no such module, or gradient checkpointing will repeat it."""
    layers = getattr(language_model.base_model, "layers", None)
    if not layers or getattr(layers[-1], "gradient_checkpointing", False):
        return None
    return getattr(layers[-1], "mlp", None)


@contextmanager
def only_at(places: Tensor, module: nn.Module | None) -> Iterator[None]:
    """Inside the block, compute `module` at these places only; its output is 0 at the others.

    places: (selected,) in the flattened batch; the module maps (batch, seq, d) to (batch, seq, d).
    """
    if module is None:
        yield
        return
    batch_and_seq: list[torch.Size] = []

    # By indices, not by a boolean mask, whose number of true elements a GPU would have to tell first.
    def select(_: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        batch_and_seq.append(inputs[0].shape[:2])
        return inputs[0].flatten(0, 1).index_select(0, places)[None]  # (1, selected, d)

    def scatter(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        batch, seq = batch_and_seq.pop()
        zeros = output.new_zeros(batch * seq, output.shape[-1])
        return zeros.index_copy(0, places, output[0]).unflatten(0, (batch, seq))

    hooks = [module.register_forward_pre_hook(select), module.register_forward_hook(scatter)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def use_cpu_kernels(loss: TargetLoss) -> None:
    """Compute the loss of a plain LM head by the fused kernel, and keep freed memory in the process."""
    head = loss.language_model.get_output_embeddings()
    loss.is_fused = (
        loss.shortcut != "none" and type(head) is nn.Linear and head.bias is None and head.weight.requires_grad
    )
    keep_freed_memory()
