"""Map the tensors of OLMo's own format to those of transformers, and refuse options without a counterpart."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from open_instruct.common.errors import UserError

if TYPE_CHECKING:
    from olmo.config import ModelConfig

# Native tensor -> the target tensors of which its rows consist, in this order.
ATTENTION_AND_MLP = {
    "att_proj.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "attn_out.weight": ("self_attn.o_proj.weight",),
    # OLMo computes silu(second half) * first half: the second half is the gate.
    "ff_proj.weight": ("mlp.up_proj.weight", "mlp.gate_proj.weight"),
    "ff_out.weight": ("mlp.down_proj.weight",),
}
NORMS_BEFORE = {
    "attn_norm.weight": ("input_layernorm.weight",),
    "ff_norm.weight": ("post_attention_layernorm.weight",),
}
NORMS_AFTER = {
    "q_norm.weight": ("self_attn.q_norm.weight",),
    "k_norm.weight": ("self_attn.k_norm.weight",),
    "attn_norm.weight": ("post_attention_layernorm.weight",),
    "ff_norm.weight": ("post_feedforward_layernorm.weight",),
}
EMBEDDING = {"transformer.wte.weight": ("model.embed_tokens.weight",)}
UNTIED_HEAD = {"transformer.ff_out.weight": ("lm_head.weight",)}
FINAL_NORM = {"transformer.ln_f.weight": ("model.norm.weight",)}

# Option -> the values that every target supports.
SUPPORTED: dict[str, tuple[Any, ...]] = {
    "block_type": ("sequential",),
    "activation_type": ("swiglu",),
    "rope": (True,),
    "alibi": (False,),
    "include_bias": (False,),
    "bias_for_layer_norm": (False, None),
    "embedding_layer_norm": (False,),
    "scale_logits": (False,),
}


@dataclass(frozen=True)
class Target:
    """An architecture of transformers: the options it supports, and its tensors in each layer and after the last."""

    model_type: str
    architecture: str
    supported: Mapping[str, tuple[Any, ...]]
    layer: Mapping[str, tuple[str, ...]]
    final: Mapping[str, tuple[str, ...]]


OLMO = Target(
    "olmo",
    "OlmoForCausalLM",
    SUPPORTED
    | {
        "norm_after": (False,),
        "attention_layer_norm": (False,),
        # The two differ under autocast only; the target always normalises in float32.
        "layer_norm_type": ("default", "low_precision"),
        "layer_norm_with_affine": (False,),
        "layer_norm_eps": (1e-5,),
    },
    ATTENTION_AND_MLP,
    {},
)
# As DataDecide's models are.
LLAMA = Target(
    "llama",
    "LlamaForCausalLM",
    SUPPORTED
    | {
        "norm_after": (False,),
        "attention_layer_norm": (False,),
        "layer_norm_type": ("rms",),
        "layer_norm_with_affine": (True,),
        "clip_qkv": (None,),
    },
    ATTENTION_AND_MLP | NORMS_BEFORE,
    FINAL_NORM,
)
OLMO2 = Target(
    "olmo2",
    "Olmo2ForCausalLM",
    SUPPORTED
    | {
        "norm_after": (True,),
        "attention_layer_norm": (True,),
        "attention_layer_norm_with_affine": (True,),
        "layer_norm_type": ("rms",),
        "layer_norm_with_affine": (True,),
        "clip_qkv": (None,),
    },
    ATTENTION_AND_MLP | NORMS_AFTER,
    FINAL_NORM,
)
# Of targets that are equally near, the first is named.
TARGETS = (OLMO, LLAMA, OLMO2)


@dataclass(frozen=True)
class Piece:
    """Rows `start` to `stop` of a native tensor, which become one target tensor."""

    source: str
    start: int
    stop: int


@dataclass(frozen=True)
class Conversion:
    """A native checkpoint and the model to be made of it."""

    native_config: "ModelConfig"
    weights: Sequence[Path]
    """Native files."""
    empty: Mapping[str, torch.Tensor]
    """The target's tensors on the meta device, by name; a tied head is not among them."""
    pieces: Mapping[str, Piece]
    """Target tensor -> native rows."""
    dtype: torch.dtype
    """Precision of the target."""
    folder: Path
    """Folder of the target."""


def target_of(config: "ModelConfig") -> Target:
    """The architecture of the converted model.

    Raises UserError that names every option that keeps the nearest architecture from being the model's.
    """
    problems = {target.architecture: unsupported(config, target) for target in TARGETS}
    target = min(TARGETS, key=lambda target: len(problems[target.architecture]))
    if found := problems[target.architecture]:
        raise UserError(
            f"{target.architecture} does not support this model: {'; '.join(found)}; "
            "such a checkpoint cannot be converted"
        )
    return target


def unsupported(config: "ModelConfig", target: Target) -> list[str]:
    """Every option that the target does not support, with its value."""
    problems = []
    for option, values in target.supported.items():
        # Options of OLMo are plain values or string enums; both compare with plain values.
        if (value := getattr(config, option)) not in values:
            expected = " or ".join(str(v) for v in values)
            problems.append(f"{option} is {getattr(value, 'value', value)}, expected {expected}")
    return problems


def map_tensors(config: "ModelConfig", target: Target, empty: Mapping[str, torch.Tensor]) -> dict[str, Piece]:
    """The native rows of each target tensor, in the order of the table.

    `empty` are the target's tensors. Raises UserError where table and target model disagree.
    """
    table: dict[str, tuple[str, ...]] = dict(EMBEDDING)
    for number in range(config.n_layers):
        prefix = native_layer(config, number)
        for source, names in target.layer.items():
            table[f"{prefix}.{source}"] = tuple(f"model.layers.{number}.{name}" for name in names)
    table |= {**target.final, **({} if config.weight_tying else UNTIED_HEAD)}

    mapped = [name for names in table.values() for name in names]
    if sorted(mapped) != sorted(empty):
        unmatched = sorted(set(mapped) ^ set(empty)) or sorted({n for n in mapped if mapped.count(n) > 1})
        raise UserError(f"the weight table and {target.architecture} disagree about {', '.join(unmatched)}")
    pieces = {}
    for source, names in table.items():
        offsets = itertools.accumulate((len(empty[name]) for name in names), initial=0)
        for name, (start, stop) in zip(names, itertools.pairwise(offsets), strict=True):
            pieces[name] = Piece(source, start, stop)
    return pieces


def native_layer(config: "ModelConfig", number: int) -> str:
    """Prefix of a layer's tensors. Blocks wrapped in groups for training are numbered within their group."""
    if config.block_group_size == 1:
        return f"transformer.blocks.{number}"
    group, index = divmod(number, config.block_group_size)
    return f"transformer.block_groups.{group}.{index}"


def check_state(state: Mapping[str, torch.Tensor], conversion: Conversion) -> None:
    """Raises UserError that names every missing and unexpected native tensor, and every one of another shape."""
    expected: dict[str, tuple[int, ...]] = {}
    for name, piece in conversion.pieces.items():
        rows = max(piece.stop, expected.get(piece.source, (0,))[0])
        expected[piece.source] = (rows, *conversion.empty[name].shape[1:])
    problems = [f"missing {key}" for key in expected if key not in state]
    problems += [f"unexpected {key}" for key in state if key not in expected]
    for key, shape in expected.items():
        if key in state and tuple(state[key].shape) != shape:
            problems.append(f"{key} has shape {tuple(state[key].shape)}, expected {shape}")
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise UserError(f"the weights do not fit their config: {shown}; download the checkpoint again")


def take(state: Mapping[str, torch.Tensor], piece: Piece, dtype: torch.dtype) -> torch.Tensor:
    """One target tensor: a view of the native one, or a copy where the precision differs."""
    return state[piece.source][piece.start : piece.stop].to(dtype).contiguous()
