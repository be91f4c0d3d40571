"""Estimate the memory that a run needs, before weights are loaded, and compare it with the free memory."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from open_instruct.common.errors import UserError
from open_instruct.common.model_files import first_line
from open_instruct.training.adapters import num_adapter_weights
from open_instruct.training.loss import MAX_LOGITS, last_mlp

GB = 1e9
FLOAT32_BYTES, HALF_BYTES = 4, 2


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    """What autograd stores for the backward pass, copies of the weights in half precision included."""
    logits: float
    head_gradient: float = 0.0
    """The part of the gradients that is there before the first activations are freed."""
    gradients_remain: bool = False
    """While a micro-batch is computed: those of others of the same step, or the memory of CUDA graphs for them."""
    is_rough: bool = False
    """The activations are those of an architecture that has not been measured."""

    @property
    def total(self) -> float:
        """The most at one time: where the backward pass begins or, if that is more, where it ends."""
        at_begin = self.activations + self.logits + (self.gradients if self.gradients_remain else 0.0)
        return self.weights + self.optimizer + self.head_gradient + max(at_begin, self.gradients)

    def __str__(self) -> str:
        return (
            f"{self.total / GB:.3g} GB (weights {self.weights / GB:.3g}, gradients {self.gradients / GB:.3g}, "
            f"AdamW {self.optimizer / GB:.3g}, activations {'roughly ' if self.is_rough else ''}"
            f"{self.activations / GB:.3g}, logits {self.logits / GB:.3g}; not all at one time)"
        )


def estimate(
    config: Any,
    *,
    num_tokens: int,
    num_targets: int,
    gradients_remain: bool,
    half_precision: bool,
    gradient_checkpointing: bool,
    lora_rank: int | None,
    num_shards: int = 1,
) -> MemoryEstimate:
    """Estimate one device's memory.

    config: of the model; num_tokens, num_targets: of the largest micro-batch; gradients_remain: as in MemoryEstimate;
    num_shards: devices among which weights, gradients and optimiser are divided (FSDP, ZeRO-3).
    Raises UserError where transformers cannot build the model.
    """
    model = model_without_weights(config)
    num_weights = sum(parameter.numel() for parameter in model.parameters())
    num_trained = num_weights
    if lora_rank is not None:
        num_trained = num_adapter_weights(model_without_weights(config), rank=lora_rank)
    config = model.config  # of the text part, where the given one has others
    num_in_head, num_in_layers = sum(map(torch.numel, head_weights(model))), sum(map(torch.numel, matrices(model)))
    copies = HALF_BYTES * (num_in_head + num_in_layers) if half_precision else 0
    is_rough = not has_measured_layers(model)
    if is_rough:
        stored = num_tokens * rough_bytes(
            model, half_precision=half_precision, gradient_checkpointing=gradient_checkpointing
        )
    else:
        attention, mlp = stored_bytes(model, half_precision=half_precision, lora_rank=lora_rank)
        num_layers = config.num_hidden_layers
        stored = num_tokens * norm_bytes(model, lora_rank=lora_rank)  # the one after the last layer
        if gradient_checkpointing:
            stored += num_tokens * (FLOAT32_BYTES * config.hidden_size * num_layers + attention + mlp)
        else:
            # In the last layer, the MLP is computed at targets only.
            num_at_last = num_targets if last_mlp(model) is not None else num_tokens
            stored += num_tokens * (attention * num_layers + mlp * (num_layers - 1)) + num_at_last * mlp
    return MemoryEstimate(
        weights=FLOAT32_BYTES * num_weights / num_shards,
        gradients=FLOAT32_BYTES * num_trained / num_shards,
        optimizer=2 * FLOAT32_BYTES * num_trained / num_shards,
        activations=copies / num_shards + stored,
        # Logits, their log-softmax and its gradient.
        logits=3 * FLOAT32_BYTES * min(num_targets * model.get_input_embeddings().num_embeddings, MAX_LOGITS),
        head_gradient=FLOAT32_BYTES * num_in_head / num_shards if lora_rank is None else 0.0,
        gradients_remain=gradients_remain,
        is_rough=is_rough,
    )


def model_without_weights(config: Any) -> Any:
    """The model that transformers would load.  Raises UserError where it has none for this config."""
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except Exception as error:  # each architecture checks its config in its own way
        raise UserError(
            f"transformers cannot build a causal language model of type {config.model_type} from its config "
            f"({first_line(error)}); choose another model"
        ) from error


def has_measured_layers(model: Any) -> bool:
    """Whether all matrices of the layers are linear layers, and the config says the sizes of one layer for all."""
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "num_key_value_heads")
    sizes = [own_field(model.config, name) for name in names]
    if not all(isinstance(size, int) for size in sizes[:3]) or isinstance(sizes[3], list):
        return False
    return {*map(id, matrices(model))} == {id(module.weight) for module in linear_layers(model)}


def own_field(config: Any, name: str) -> Any:
    """A config's field; None where it has none, or one for each layer."""
    try:
        return getattr(config, name, None)
    except RuntimeError:  # raised by transformers for fields that differ from layer to layer
        return None


def rough_bytes(model: Any, *, half_precision: bool, gradient_checkpointing: bool) -> float:
    """Bytes that autograd stores for a token, if these are the inputs and outputs of every matrix.

    Of experts, which are one tensor of three dimensions, as many count as compute a token.
    """
    config = model.config.get_text_config()
    experts, num_layers = own_field(config, "num_experts_per_tok") or 1, own_field(config, "num_hidden_layers") or 1
    stored = HALF_BYTES if half_precision else FLOAT32_BYTES
    stored *= sum(sum(m.shape[-2:]) * (experts if m.ndim == 3 else 1) for m in matrices(model))
    if not gradient_checkpointing:
        return stored
    return stored / num_layers + FLOAT32_BYTES * model.get_input_embeddings().weight.shape[-1] * num_layers


def stored_bytes(model: Any, *, half_precision: bool, lora_rank: int | None) -> tuple[float, float]:
    """Bytes that autograd stores for a token in one layer: attention with both norms, and MLP.

    Counted with torch.autograd.graph.saved_tensors_hooks, transformers 5.17 to 5.23 (tests/training/test_memory.py).
    """
    config, linear = model.config, [inputs_and_outputs(module) for module in linear_layers(model)]
    width, num_layers = config.hidden_size, config.num_hidden_layers
    inner = getattr(config, "intermediate_size", None) or 4 * width
    number = HALF_BYTES if half_precision else FLOAT32_BYTES
    of_mlp = [sizes for sizes in linear if inner in sizes]
    mlp_inputs = sum(inputs for inputs, _ in of_mlp) / num_layers
    attention_inputs = sum(inputs for inputs, _ in linear) / num_layers - mlp_inputs
    if lora_rank is not None:
        # Each adapter has its input to itself, and its dropout a mask of bytes.
        attention, mlp = ((number + 1) * inputs for inputs in (attention_inputs, mlp_inputs))
        attention += number * width
    elif half_precision:
        attention, mlp = number * attention_inputs, number * mlp_inputs  # each layer's input is cast for itself
    else:
        attention, mlp = number * 2 * width, number * (width + inner)
    heads = config.num_attention_heads
    # Query, key and value; the output is the input of the next linear layer.
    attention += number * width * (1 + 2 * (getattr(config, "num_key_value_heads", None) or heads) / heads)
    # Outputs of the first matrices and, where there are two of them, of the activation.
    num_wide = sum(outputs == inner for _, outputs in of_mlp) / num_layers
    mlp += number * inner * (2 * num_wide - 1)
    return attention + 2 * norm_bytes(model, lora_rank=lora_rank), mlp


def norm_bytes(model: Any, *, lora_rank: int | None) -> float:
    """Of a token at one norm, in float32: its input; RMSNorm, made of several operations, stores its output as well."""
    has_rms_norm = any("RMSNorm" in type(module).__name__ for module in model.modules())
    return FLOAT32_BYTES * model.config.hidden_size * (2 if has_rms_norm and lora_rank is None else 1)


def matrices(model: Any) -> list[torch.Tensor]:
    """Weights of two dimensions or more, but for embeddings and head."""
    tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    left_out = {*map(id, [*tables, *head_weights(model)])}
    return [weight for weight in model.parameters() if weight.ndim >= 2 and id(weight) not in left_out]


def head_weights(model: Any) -> list[torch.Tensor]:
    """The LM head's matrix; none where transformers does not say which it is."""
    head = model.get_output_embeddings()
    return [] if head is None else [weight for weight in head.parameters() if weight.ndim == 2]


def linear_layers(model: Any) -> list[Any]:
    """All linear layers but the head, GPT-2's kind included."""
    head = model.get_output_embeddings()
    return [module for module in model.modules() if isinstance(module, nn.Linear | Conv1D) and module is not head]


def inputs_and_outputs(module: Any) -> tuple[int, int]:
    """Sizes of a linear layer."""
    outputs, inputs = module.weight.shape
    return (outputs, inputs) if isinstance(module, Conv1D) else (inputs, outputs)


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
    fixed = need.weights + need.gradients + need.optimizer
    if (fixed if need.is_rough else need.total) <= free_bytes:
        return
    options = ["--max_tokens_per_batch (fewer)", "--gradient_checkpointing"] if fixed < free_bytes else []
    options += ["--use_lora", "more devices with accelerate's FSDP or ZeRO-3 configuration (scripts/accelerate)"]
    raise UserError(
        f"this needs about {need}, and {free_bytes / GB:.3g} GB are free; what helps: {'; '.join(options)}. "
        "Start anyway with --no-check-memory"
    )
