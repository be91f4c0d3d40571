"""How much memory a run needs, before a weight is loaded; and how much there is."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from open_instruct.common.errors import UserError
from open_instruct.training.loss import last_feed_forward

GB = 1e9
FLOAT32 = 4


@dataclass(frozen=True)
class Need:
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
) -> Need:
    """config: of the model.  num_tokens, num_targets: the most that are held at once.

    num_shards: devices over which weights, gradients and optimiser are shared out (FSDP, ZeRO-3).
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    num_weights = sum(parameter.numel() for parameter in model.parameters())
    num_trained = num_weights if lora_rank is None else num_adapter_weights(model, lora_rank)
    width, layers = config.hidden_size, config.num_hidden_layers
    inner = getattr(config, "intermediate_size", None) or 4 * width
    # What autograd keeps of one token in one layer: two norms, q, k, v before and after rotation, attention's output,
    # two residual sums; gate, up, activation and product of the feed-forward part, which the last layer has at targets.
    attention, feed_forward = 14 * width, 4 * inner
    if gradient_checkpointing:
        kept = num_tokens * (width * layers + attention + feed_forward)
    else:
        num_at_last = num_targets if last_feed_forward(model) is not None else num_tokens
        kept = num_tokens * (attention * layers + feed_forward * (layers - 1)) + num_at_last * feed_forward
    size = 2 if half_precision else FLOAT32
    return Need(
        weights=(FLOAT32 + (2 if half_precision else 0)) * num_weights / num_shards,
        gradients=FLOAT32 * num_trained / num_shards,
        optimizer=2 * FLOAT32 * num_trained / num_shards,
        activations=size * kept,
        # Logits, their log-softmax and its gradient.
        logits=3 * FLOAT32 * num_targets * config.vocab_size,
    )


def num_adapter_weights(model: nn.Module, rank: int) -> int:
    head: Any = model.get_output_embeddings()  # pyright: ignore[reportCallIssue]
    linear = (module for module in model.modules() if isinstance(module, nn.Linear) and module is not head)
    return sum(rank * (module.in_features + module.out_features) for module in linear)


def available(device: torch.device, *, num_local_processes: int = 1) -> int:
    """Bytes that one process can have: of its GPU, or its share of the machine's or the control group's memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(min(psutil.virtual_memory().available, *control_group_limits()) / num_local_processes)


def control_group_limits() -> Iterable[float]:
    """What Slurm or a container leaves."""
    yield float("inf")
    own = Path("/proc/self/cgroup")
    names = (
        [line.split(":", 2)[2] for line in own.read_text().splitlines() if line.startswith("0::")]
        if own.exists()
        else []
    )
    for name in {"/", *names}:
        folder = Path("/sys/fs/cgroup") / name.strip("/")
        limit, used = folder / "memory.max", folder / "memory.current"
        if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
            yield int(limit.read_text()) - int(used.read_text())


def require(need: Need, available_bytes: int) -> None:
    """Raises UserError, with what would help, where it cannot fit."""
    if need.total <= available_bytes:
        return
    fixed = need.weights + need.gradients + need.optimizer
    cures = ["--max_tokens_per_batch (fewer)", "--gradient_checkpointing"] if fixed < available_bytes else []
    cures += ["--use_lora", "more devices with accelerate's FSDP or ZeRO-3 configuration (scripts/accelerate)"]
    raise UserError(
        f"this needs about {need}, and {available_bytes / GB:.3g} GB are free; what helps: {'; '.join(cures)}. "
        "Start anyway with --no-check-memory"
    )
