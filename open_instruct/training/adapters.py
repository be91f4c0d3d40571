"""Low-rank adapters of all linear layers but the head, checked to survive saving and merging."""

from typing import Any

import torch
from torch import nn

from open_instruct.common.errors import UserError
from open_instruct.common.model_files import first_line

INSTEAD = "leave out --use_lora to train all weights"
USED_IN_KERNELS = dict.fromkeys(("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"), "out_proj")
"""Model type -> linear layer whose weight the kernels of its recurrent layers read themselves, past any adapter; peft
refuses to adapt it."""


def add_adapters(model: Any, *, rank: int, alpha: float, dropout: float) -> Any:
    """Add low-rank adapters to all linear layers but the head; only they are trained.

    Of some mixtures of experts, peft adapts the experts' weights, too.
    Raises UserError for a model whose adapters could not be saved, loaded and merged.
    """
    adapted = with_adapters(model, rank=rank, alpha=alpha, dropout=dropout)
    require_mergeable(adapted)
    return adapted


def num_adapter_weights(model: Any, *, rank: int) -> int:
    """Number of weights that are trained.  model: without weights (on the meta device), which is changed"""
    adapted = with_adapters(model, rank=rank, alpha=1.0, dropout=0.0)
    return sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)


def with_adapters(model: Any, *, rank: int, alpha: float, dropout: float) -> Any:
    from peft import LoraConfig, get_peft_model

    scale: Any = alpha  # peft takes fractions, which its hint does not say
    config = LoraConfig(
        r=rank,
        lora_alpha=scale,
        lora_dropout=dropout,
        target_modules="all-linear",
        exclude_modules=not_adapted(model) or None,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except Exception as error:  # peft has rules for many architectures
        raise UserError(
            f"{type(model).__name__}: peft cannot adapt its linear layers ({first_line(error)}); {INSTEAD}"
        ) from error


def not_adapted(model: Any) -> list[str]:
    """Names of the linear layers that an adapter would not add to."""
    kinds = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    special = [name for name, module in kinds.items() if type(module) is not nn.Linear and not is_product(module)]
    in_kernels = USED_IN_KERNELS.get(model.config.model_type)
    return [*special, in_kernels] if in_kernels else special


@torch.no_grad()
def is_product(layer: nn.Linear) -> bool:
    """Whether the layer returns the product with its weight, as routers of experts, for example, do not."""
    inputs = torch.ones(2, layer.in_features, dtype=layer.weight.dtype, device=layer.weight.device)
    try:
        found = layer(inputs)
    except (RuntimeError, ValueError):
        return False
    expected = nn.functional.linear(inputs, layer.weight, layer.bias)
    if not isinstance(found, torch.Tensor) or found.shape != expected.shape:
        return False
    return found.is_meta or torch.allclose(found, expected)


def require_mergeable(model: Any) -> None:
    """Raise UserError where adapters would get lost in a file, or two of them belong to one weight.

    model: a PeftModel
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    name = type(model.get_base_model()).__name__
    adapters = [module for module in model.modules() if hasattr(module, "lora_A")]
    # peft wraps linear layers, and parameters of experts.
    weights = [each.get_param() if hasattr(each, "get_param") else each.get_base_layer().weight for each in adapters]
    if len({id(weight) for weight in weights}) < len(weights):
        raise UserError(
            f"{name}: several of its layers share a weight, into which only one adapter can be merged; {INSTEAD}"
        )
    missing = set_peft_model_state_dict(model, get_peft_model_state_dict(model)).missing_keys
    lost = [key for key in missing if "lora_" in key]
    if lost:
        raise UserError(f"{name}: peft loses {len(lost)} adapters when it loads them, such as {lost[0]}; {INSTEAD}")
