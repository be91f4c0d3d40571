"""Estimate the memory that a run needs, before weights are loaded, and compare it with the free memory."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from open_instruct.common.errors import UserError
from open_instruct.training.loss import last_mlp

GB = 1e9
FLOAT32_BYTES = 4


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits

    def __str__(self) -> str:
        return (
            f"{self.total / GB:.3g} GB = weights {self.weights / GB:.3g} + gradients {self.gradients / GB:.3g} + "
            f"AdamW {self.optimizer / GB:.3g} + activations {self.activations / GB:.3g} + logits {self.logits / GB:.3g}"
        )


def estimate(
    config: Any,
    *,
    num_tokens: int,
    num_targets: int,
    half_precision: bool,
    gradient_checkpointing: bool,
    lora_rank: int | None,
    num_shards: int = 1,
) -> MemoryEstimate:
    """Estimate one device's memory.

    config: of the model; num_tokens, num_targets: of the largest micro-batch; num_shards: devices among which weights,
    gradients and optimiser are divided (FSDP, ZeRO-3).
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    num_weights = sum(parameter.numel() for parameter in model.parameters())
    num_trained = num_weights if lora_rank is None else num_adapter_weights(model, lora_rank)
    width, layers = config.hidden_size, config.num_hidden_layers
    inner = getattr(config, "intermediate_size", None) or 4 * width
    # What autograd stores per token and layer. Attention: two norms; q, k, v before and after rotary embedding;
    # its output; two residual sums. MLP: gate, up, activation, product; in the last layer at targets only.
    attention, mlp = 14 * width, 4 * inner
    if gradient_checkpointing:
        stored = num_tokens * (width * layers + attention + mlp)
    else:
        num_at_last = num_targets if last_mlp(model) is not None else num_tokens
        stored = num_tokens * (attention * layers + mlp * (layers - 1)) + num_at_last * mlp
    activation_bytes = 2 if half_precision else FLOAT32_BYTES
    return MemoryEstimate(
        weights=(FLOAT32_BYTES + (2 if half_precision else 0)) * num_weights / num_shards,
        gradients=FLOAT32_BYTES * num_trained / num_shards,
        optimizer=2 * FLOAT32_BYTES * num_trained / num_shards,
        activations=activation_bytes * stored,
        # Logits, their log-softmax and its gradient.
        logits=3 * FLOAT32_BYTES * num_targets * config.vocab_size,
    )


def num_adapter_weights(model: nn.Module, rank: int) -> int:
    head: Any = model.get_output_embeddings()  # pyright: ignore[reportCallIssue]
    linear = (module for module in model.modules() if isinstance(module, nn.Linear) and module is not head)
    return sum(rank * (module.in_features + module.out_features) for module in linear)


def available_bytes(device: torch.device, *, num_local_processes: int = 1) -> int:
    """Free memory of the GPU, or this process's share of what the machine and its control group have free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(min(psutil.virtual_memory().available, *control_group_free_bytes()) / num_local_processes)


def control_group_free_bytes() -> Iterable[float]:
    """Memory left under each limit that Slurm or a container sets; infinity if there is none."""
    yield float("inf")
    own = Path("/proc/self/cgroup")
    lines = own.read_text().splitlines() if own.exists() else []
    for name in {"/", *(line.split(":", 2)[2] for line in lines if line.startswith("0::"))}:
        folder = Path("/sys/fs/cgroup") / name.strip("/")
        limit, used = folder / "memory.max", folder / "memory.current"
        if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
            yield int(limit.read_text()) - int(used.read_text())


def check_fits(need: MemoryEstimate, free_bytes: int) -> None:
    """Raise UserError, naming the options that reduce the need, if the run cannot fit."""
    if need.total <= free_bytes:
        return
    fixed = need.weights + need.gradients + need.optimizer
    options = ["--max_tokens_per_batch (fewer)", "--gradient_checkpointing"] if fixed < free_bytes else []
    options += ["--use_lora", "more devices with accelerate's FSDP or ZeRO-3 configuration (scripts/accelerate)"]
    raise UserError(
        f"this needs about {need}, and {free_bytes / GB:.3g} GB are free; what helps: {'; '.join(options)}. "
        "Start anyway with --no-check-memory"
    )
