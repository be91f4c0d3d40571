"""Verify that a converted checkpoint is the same model: compare OLMo's own logits with those of transformers.

Both models are loaded where memory allows it; otherwise layer by layer, each with its weights while it is computed.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import psutil
import torch
from accelerate import cpu_offload
from accelerate.utils import set_module_tensor_to_device
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from open_instruct.common.errors import UserError
from open_instruct.data.encode import encode_prompts
from open_instruct.olmo_hf.native import load_safetensors, load_state
from open_instruct.olmo_hf.shards import NUM_PARALLEL
from open_instruct.olmo_hf.weights import Conversion, take

if TYPE_CHECKING:
    from olmo.config import ModelConfig
    from olmo.model import OLMo

TOLERANCE = 1e-4
"""Largest difference allowed, relative to the largest logit where that is above 1, as float32 rounding is relative.
Another attention kernel alone changes logits of 10 by 5e-5, a wrong mapping by whole units (docs/convert.md)."""
TEXT = (
    "The Amazon river carries more water than the next seven largest rivers together.\n"
    "### Input: Jordan left the party early.\n ### Question: Why did Jordan do this?"
)
RANDOM_LENGTHS = (1, 2, 17, 64, 256)
"""Numbers of tokens of the random prompts. The long one tests far positions, and so the rotary base."""
MEMORY_FACTOR = 2.3
"""Memory for both models, in sizes of one in float32."""

VerifyBy = Literal["auto", "whole", "layers"]


def verify(conversion: Conversion, tokenizer: PreTrainedTokenizerFast, verify_by: VerifyBy) -> dict[str, Any]:
    """Compare the native and the converted model in float32; returns what was measured.

    Raises UserError where the logits differ, or the written weights are not the native ones in the target's precision.
    """
    prompts = make_prompts(tokenizer, conversion.native_config)
    measured: dict[str, Any] = {"num_prompts": len(prompts), "num_tokens": sum(len(ids) for ids in prompts)}
    measured["by_layer"] = choose_by_layer(verify_by, load_state(conversion.weights))
    measured |= (compare_by_layer if measured["by_layer"] else compare_whole)(conversion, prompts)
    measured["tolerance"] = TOLERANCE * max(1.0, measured["max_abs_logit"])
    print(
        f"logits differ by at most {measured['max_abs_difference']:.2e} (mean {measured['mean_abs_difference']:.2e}, "
        f"allowed {measured['tolerance']:.2e}) over {measured['num_tokens']} tokens of {len(prompts)} prompts"
        f"{', layer by layer' if measured['by_layer'] else ''}"
    )
    # Negated, so that nan fails too.
    if not measured["max_abs_difference"] <= measured["tolerance"]:
        raise UserError(
            f"the converted model is not the native one: logits differ by {measured['max_abs_difference']:.2e}, "
            f"allowed {measured['tolerance']:.2e}. Nothing was kept of it; download the checkpoint "
            "again; if that does not help, its architecture is not one of those in docs/convert.md"
        )
    return measured


def make_prompts(tokenizer: PreTrainedTokenizerFast, config: "ModelConfig") -> list[list[int]]:
    """Seeded random ids of several lengths, and a text, each truncated to the model's maximum length."""
    generator = torch.Generator().manual_seed(0)
    longest = config.max_sequence_length
    lengths = sorted({min(length, longest) for length in RANDOM_LENGTHS})
    random = [torch.randint(config.vocab_size, (n,), generator=generator).tolist() for n in lengths]
    return [*random, encode_prompts(tokenizer, [TEXT])[0][:longest]]


def choose_by_layer(verify_by: VerifyBy, state: Mapping[str, torch.Tensor]) -> bool:
    num_bytes = sum(4 * tensor.numel() for tensor in state.values())
    is_too_large = MEMORY_FACTOR * num_bytes > psutil.virtual_memory().available
    return verify_by == "layers" or (verify_by == "auto" and is_too_large)


def compare_whole(conversion: Conversion, prompts: Sequence[list[int]]) -> dict[str, Any]:
    state = load_state(conversion.weights)
    native = empty_native(conversion.native_config)
    # Strict: OLMo's own code agrees on the names. A tied head is no tensor of its own.
    native.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    native.eval()
    converted = AutoModelForCausalLM.from_pretrained(conversion.folder, dtype=torch.float32).eval()
    # One prompt per batch: no padding.
    batches = [[ids] for ids in prompts]
    measured = {} if conversion.dtype == torch.float32 else {"after_cast": compare(native, converted, batches)}
    restore_full_precision(converted, state, conversion)
    return measured | compare(native, converted, batches)


def empty_native(config: "ModelConfig") -> "OLMo":
    from olmo.model import OLMo

    # No memory for initial weights, which are replaced, and no GPU kernel.
    return OLMo(dataclasses.replace(config, init_device="meta", flash_attention=False), init_params=False)


def restore_full_precision(
    converted: PreTrainedModel, state: Mapping[str, torch.Tensor], conversion: Conversion
) -> None:
    """Check every written weight, and put the native one in its place."""
    parameters = dict(converted.named_parameters())

    def restore(name: str) -> None:
        parameters[name].data = native_weight(name, parameters[name].data, state, conversion)

    # Both weights are read from the disk or its cache: faster in parallel.
    with ThreadPoolExecutor(NUM_PARALLEL) as pool:
        list(pool.map(restore, parameters))


def native_weight(
    name: str, written: torch.Tensor, state: Mapping[str, torch.Tensor], conversion: Conversion
) -> torch.Tensor:
    """The native weight in float32.  Raises UserError where `written` is not equal to it in the target's precision."""
    piece = conversion.pieces[name]
    if not torch.equal(written.float(), take(state, piece, conversion.dtype).float()):
        raise UserError(f"{name} was not written correctly; check whether the disk is full or broken")
    return take(state, piece, torch.float32)


@torch.no_grad()
def compare(native: nn.Module, converted: nn.Module, batches: Sequence[list[list[int]]]) -> dict[str, float]:
    """Differences over all logits of all prompts, and the largest logit.

    Prompts of a batch are padded on the right: no token attends to a later one.
    """
    largest, total, count, largest_logit = 0.0, 0.0, 0, 0.0
    started = time.monotonic()
    for prompts in batches:
        longest = max(map(len, prompts))
        inputs = torch.tensor([ids + [0] * (longest - len(ids)) for ids in prompts])
        # (batch, seq, embedding)
        expected, found = native(inputs).logits, converted(inputs, use_cache=False).logits
        for row, ids in enumerate(prompts):
            difference = (expected[row, : len(ids)] - found[row, : len(ids)]).abs()
            # torch's maximum passes nan on; Python's would lose it.
            largest = torch.stack([torch.tensor(largest), difference.max()]).max().item()
            largest_logit = max(largest_logit, expected[row, : len(ids)].abs().max().item())
            total, count = total + difference.sum().item(), count + difference.numel()
    return {
        "max_abs_difference": largest,
        "mean_abs_difference": total / count,
        "max_abs_logit": largest_logit,
        "forward_seconds": time.monotonic() - started,
    }


def compare_by_layer(conversion: Conversion, prompts: Sequence[list[int]]) -> dict[str, Any]:
    """All prompts as one batch, so that each layer is loaded once."""
    from olmo.model import OLMoBlock

    def native_tensor(name: str) -> torch.Tensor:
        return load_state(conversion.weights)[name].float()

    def converted_tensor(name: str) -> torch.Tensor:
        files = sorted(conversion.folder.glob("*.safetensors"))
        (written,) = (tensors[name] for file in files if name in (tensors := load_safetensors(file)))
        return native_weight(name, written, load_state(conversion.weights), conversion)

    native = empty_native(conversion.native_config).eval()
    load_by_layer(native, OLMoBlock, native_tensor)
    with torch.device("meta"):
        config = AutoConfig.from_pretrained(conversion.folder)
        converted = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    # Its buffer is computed, not loaded.
    converted.model.rotary_emb = type(converted.model.rotary_emb)(config)
    load_by_layer(converted, type(converted.model.layers[0]), converted_tensor)
    converted.tie_weights()
    return compare(native, converted, [list(prompts)])


class LazyWeights(dict[str, torch.Tensor]):
    """Weights that are loaded each time they are read."""

    def __init__(self, load: Callable[[str], torch.Tensor]) -> None:
        super().__init__()
        self.load = load

    def __missing__(self, name: str) -> torch.Tensor:
        return self.load(name)


def load_by_layer(model: nn.Module, layer_type: type[nn.Module], load: Callable[[str], torch.Tensor]) -> None:
    """Load the weights of an empty model: those of a layer during its forward pass only, all others now."""
    layers = {f"{name}.": module for name, module in model.named_modules() if isinstance(module, layer_type)}
    for name in [name for name, _ in model.named_parameters() if not name.startswith(tuple(layers))]:
        set_module_tensor_to_device(model, name, "cpu", load(name))
    for prefix, layer in layers.items():
        weights = LazyWeights(lambda name, prefix=prefix: load(prefix + name))
        cpu_offload(layer, torch.device("cpu"), state_dict=weights, preload_module_classes=[type(layer).__name__])
