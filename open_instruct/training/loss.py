"""The loss that is trained on: nothing is computed where there is no target, as far as the model allows it."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding

from open_instruct.common.errors import UserError
from open_instruct.data.encode import IGNORED
from open_instruct.training.fused_cross_entropy import Tied, summed_cross_entropy

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of glibc's malloc.h."""

TARGETS_MULTIPLE = 16


class TargetLoss(nn.Module):
    """A causal language model that returns the summed loss of its targets, and projects nothing else."""

    def __init__(self, model: Any) -> None:
        """model: a transformers model for causal language modelling, or a PeftModel of one."""
        super().__init__()
        self.model = model
        self.spares_memory_traffic = False
        self._no_split_modules = getattr(self.language_model, "_no_split_modules", None)  # what FSDP wraps

    @property
    def language_model(self) -> Any:
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    def forward(self, ids: Tensor, targets: Tensor, lengths: list[int] | None = None) -> Tensor:
        """A Batch's fields.  -> () nats, summed over targets."""
        # Causal attention never looks right, so padding there needs no mask.
        packed: dict[str, Any] = {}
        if lengths is not None:
            positions = torch.cat([torch.arange(length, device=ids.device) for length in lengths])
            packed = {"position_ids": positions[None], "lengths": lengths}
        inner = self.language_model
        inputs, head = inner.get_input_embeddings(), inner.get_output_embeddings()
        weight = head.weight
        if self.spares_memory_traffic and inputs.weight is weight:
            of_inputs, weight = Tied.apply(weight)  # pyright: ignore[reportGeneralTypeIssues]
            given = {"inputs_embeds": embedding(ids, of_inputs, inputs.padding_idx, sparse=True)}
        else:
            given = {"input_ids": ids}
        is_target = targets != IGNORED
        with only_where(is_target, last_feed_forward(inner)):
            outputs = inner.base_model(**given, use_cache=False, **packed)
        hidden = outputs.last_hidden_state[is_target]  # (targets, d)
        if self.spares_memory_traffic:
            return summed_cross_entropy(rounded_up(hidden), weight, targets[is_target])
        return cross_entropy(head(hidden).float(), targets[is_target], reduction="sum")


def last_feed_forward(language_model: Any) -> nn.Module | None:
    """What the last layer does to each position by itself; None where it is not known, or will be done once more."""
    layers = getattr(language_model.base_model, "layers", None)
    if not layers or getattr(layers[-1], "gradient_checkpointing", False):
        return None
    return getattr(layers[-1], "mlp", None)


@contextmanager
def only_where(wanted: Tensor, module: nn.Module | None) -> Iterator[None]:
    """The module sees the positions that are wanted alone, and is taken to give 0 elsewhere.

    wanted: (batch, seq); what the module takes and gives: (batch, seq, d).
    """
    if module is None:
        yield
        return

    def take(_: nn.Module, given: tuple[Tensor]) -> Tensor:
        return rounded_up(given[0][wanted])  # (wanted, d), and some of 0

    def put_back(_: nn.Module, __: Any, result: Tensor) -> Tensor:
        nothing = result.new_zeros(*wanted.shape, result.shape[-1])
        return nothing.masked_scatter(wanted[..., None], result)  # which leaves over what was added

    hooks = [module.register_forward_pre_hook(take), module.register_forward_hook(put_back)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def rounded_up(rows: Tensor) -> Tensor:
    """rows: (n, d).  -> in half precision with rows of 0 added: few shapes, as for pad_to_multiple_of."""
    multiple = TARGETS_MULTIPLE if torch.is_autocast_enabled(rows.device.type) else 1
    return nn.functional.pad(rows, (0, 0, 0, -len(rows) % multiple))


@torch.no_grad()
def check_projection(model: Any, *, packing: bool) -> None:
    """Raises UserError where leaving positions out changes a loss, or more than a head comes after the last layer."""
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


def spare_memory_traffic(loss: TargetLoss) -> None:
    """On a CPU small models wait for memory: fused_cross_entropy.py takes the place of what goes through it more often.

    What is freed stays with the process, so that the kernel does not clear the same pages for every step.
    """
    inputs, head = loss.language_model.get_input_embeddings(), loss.language_model.get_output_embeddings()
    is_plain = type(inputs) is nn.Embedding and inputs.max_norm is None and type(head) is nn.Linear
    loss.spares_memory_traffic = is_plain and head.bias is None and head.weight.requires_grad
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
