"""Cross-entropy of the target tokens: positions without a target are left out of the head and the last MLP."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from open_instruct.common.errors import UserError
from open_instruct.data.encode import IGNORED
from open_instruct.training.cpu_kernels.fused_cross_entropy import summed_cross_entropy
from open_instruct.training.cpu_kernels.malloc import keep_freed_memory


class TargetLoss(nn.Module):
    """A causal language model whose forward pass returns the summed loss of the targets."""

    def __init__(self, model: Any) -> None:
        """model: a transformers model for causal language modelling, or a PeftModel of one."""
        super().__init__()
        self.model = model
        self.is_fused = False
        self._no_split_modules = getattr(self.language_model, "_no_split_modules", None)  # FSDP wraps these

    @property
    def language_model(self) -> Any:
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    def forward(self, ids: Tensor, targets: Tensor, lengths: list[int] | None = None) -> Tensor:
        """Fields of a Batch.  -> () nats, summed over targets"""
        # Padding is on the right, and causal attention looks left only: no mask is needed.
        packed: dict[str, Any] = {}
        if lengths is not None:
            positions = torch.cat([torch.arange(length, device=ids.device) for length in lengths])
            packed = {"position_ids": positions[None], "lengths": lengths}
        inner, is_target = self.language_model, targets != IGNORED
        head = inner.get_output_embeddings()
        with only_at(is_target, last_mlp(inner)):
            hidden = inner.base_model(input_ids=ids, use_cache=False, **packed).last_hidden_state[is_target]
        # hidden: (targets, d)
        if self.is_fused:
            return summed_cross_entropy(hidden, head.weight, targets[is_target])
        return cross_entropy(head(hidden).float(), targets[is_target], reduction="sum")


def last_mlp(language_model: Any) -> nn.Module | None:
    """MLP of the last layer; None where the model has no such module, or gradient checkpointing will repeat it."""
    layers = getattr(language_model.base_model, "layers", None)
    if not layers or getattr(layers[-1], "gradient_checkpointing", False):
        return None
    return getattr(layers[-1], "mlp", None)


@contextmanager
def only_at(positions: Tensor, module: nn.Module | None) -> Iterator[None]:
    """Inside the block, compute `module` at these positions only; its output is 0 at the others.

    positions: (batch, seq), boolean; the module maps (batch, seq, d) to (batch, seq, d).
    """
    if module is None:
        yield
        return

    def select(_: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return inputs[0][positions]  # (selected, d)

    def scatter(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        zeros = output.new_zeros(*positions.shape, output.shape[-1])
        return zeros.masked_scatter(positions[..., None], output)

    hooks = [module.register_forward_pre_hook(select), module.register_forward_hook(scatter)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def check_projection(model: Any, *, packing: bool) -> None:
    """Raise UserError if TargetLoss differs from the loss of the model's own forward pass on an example.

    It does where the last MLP mixes positions, or the model changes the head's logits.
    """
    ids = torch.arange(6)[None]
    targets = ids.clone()
    targets[:, 2:4] = IGNORED
    lengths = [ids.shape[1]] if packing else None
    model.eval()
    found = TargetLoss(model)(ids, targets, lengths)
    logits = model(input_ids=ids, use_cache=False, **({"lengths": lengths} if packing else {})).logits
    expected = cross_entropy(logits[0].float(), targets[0], ignore_index=IGNORED, reduction="sum")
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3):
        raise UserError(
            f"{type(model).__name__}: its logits are not its head's projection of its last layer "
            f"(loss {expected:.4f}, projected {found:.4f}), so finetune.py cannot train it"
        )


def use_cpu_kernels(loss: TargetLoss) -> None:
    """Compute the loss of a plain LM head by the fused kernel, and keep freed memory in the process."""
    head = loss.language_model.get_output_embeddings()
    loss.is_fused = type(head) is nn.Linear and head.bias is None and head.weight.requires_grad
    keep_freed_memory()
