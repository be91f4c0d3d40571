"""Proof that a converted checkpoint is the same model: the logits of OLMo's own code against those of transformers.

Both models are held at once where memory allows it; else layer by layer, each layer's weights only while it computes.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from olmo.config import ModelConfig
from olmo.model import OLMo, OLMoBlock
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from open_instruct.common.errors import UserError
from open_instruct.data.encode import encode_prompts
from open_instruct.olmo_hf.native import load_safetensors, load_state
from open_instruct.olmo_hf.shards import NUM_AT_ONCE
from open_instruct.olmo_hf.weights import Piece, take

TOLERANCE = 1e-4
"""Largest difference allowed, as a share of the largest logit where that is above 1, since float32 rounds relatively:
another attention kernel alone moves logits of 10 by 5e-5, a wrong mapping by whole units (docs/convert.md)."""
TEXT = (
    "The Amazon river carries more water than the next seven largest rivers together.\n"
    "### Input: Jordan left the party early.\n ### Question: Why did Jordan do this?"
)
RANDOM_LENGTHS = (1, 2, 17, 64, 256)
"""Tokens of the random prompts; the long one makes far positions, and so the rotary base, count."""
MEMORY_NEEDED = 2.3
"""Of both models at once, in sizes of one in float32."""

How = Literal["auto", "whole", "layers"]
Load = Callable[[str], torch.Tensor]


def verify(
    native_config: ModelConfig,
    weights: Sequence[Path],
    pieces: Mapping[str, Piece],
    folder: Path,
    dtype: torch.dtype,
    tokenizer: PreTrainedTokenizerFast,
    how: How,
) -> dict[str, Any]:
    """Compare the native model with the one in `folder` in float32; returns what was measured.

    Raises UserError where the logits differ, or the written weights are not the native ones in `dtype`.
    """
    prompts = make_prompts(tokenizer, native_config)
    measured: dict[str, Any] = {"num_prompts": len(prompts), "num_tokens": sum(len(ids) for ids in prompts)}
    measured["by_layer"] = choose_by_layer(how, weights)
    prove = compare_layers if measured["by_layer"] else compare_whole
    measured |= prove(native_config, weights, pieces, folder, dtype, prompts)
    measured["tolerance"] = TOLERANCE * max(1.0, measured["max_abs_logit"])
    print(
        f"logits differ by at most {measured['max_abs_difference']:.2e} (mean {measured['mean_abs_difference']:.2e}, "
        f"allowed {measured['tolerance']:.2e}) over {measured['num_tokens']} tokens of {len(prompts)} prompts"
        f"{', layer by layer' if measured['by_layer'] else ''}"
    )
    # Negated, so that a difference which is not a number fails too.
    if not measured["max_abs_difference"] <= measured["tolerance"]:
        raise UserError(
            f"the converted model is not the native one: logits differ by {measured['max_abs_difference']:.2e}, "
            f"allowed {measured['tolerance']:.2e}; {folder} was removed. Download the checkpoint "
            "again; where that does not help, its code is not the one that docs/convert.md describes"
        )
    return measured


def make_prompts(tokenizer: PreTrainedTokenizerFast, config: ModelConfig) -> list[list[int]]:
    """Seeded random ids of several lengths, and a text. Each is at most as long as the model takes."""
    generator = torch.Generator().manual_seed(0)
    longest = config.max_sequence_length
    lengths = sorted({min(length, longest) for length in RANDOM_LENGTHS})
    random = [torch.randint(config.vocab_size, (n,), generator=generator).tolist() for n in lengths]
    text = encode_prompts(tokenizer, [TEXT])[0]
    return [*random, text[:longest]]


def choose_by_layer(how: How, weights: Sequence[Path]) -> bool:
    num_bytes = sum(4 * tensor.numel() for tensor in load_state(weights).values())
    return how == "layers" or (how == "auto" and MEMORY_NEEDED * num_bytes > psutil.virtual_memory().available)


# --- both models at once ---


def compare_whole(
    native_config: ModelConfig,
    weights: Sequence[Path],
    pieces: Mapping[str, Piece],
    folder: Path,
    dtype: torch.dtype,
    prompts: Sequence[list[int]],
) -> dict[str, Any]:
    state = load_state(weights)
    native = build_native(native_config, state)
    converted = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    # One by one: no padding.
    batches = [[ids] for ids in prompts]
    measured = {} if dtype == torch.float32 else {"after_cast": compare(native, converted, batches)}
    restore_full_precision(converted, state, pieces, dtype)
    return measured | compare(native, converted, batches)


def build_native(config: ModelConfig, state: Mapping[str, torch.Tensor]) -> OLMo:
    """The native model in float32, on the mapped tensors of its checkpoint."""
    model = empty_native(config)
    # A tied head is no tensor of its own here; a strict load also shows that OLMo agrees on the names.
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    return model.eval()


def empty_native(config: ModelConfig) -> OLMo:
    # Neither changes what is computed: no memory for weights that are replaced at once, no GPU kernel.
    return OLMo(dataclasses.replace(config, init_device="meta", flash_attention=False), init_params=False)


def restore_full_precision(
    converted: PreTrainedModel, state: Mapping[str, torch.Tensor], pieces: Mapping[str, Piece], dtype: torch.dtype
) -> None:
    """Check that every written weight is the native one in `dtype`, bit for bit, and put the native one in place.

    Raises UserError that names the first other weight.
    """
    parameters = dict(converted.named_parameters())

    def restore(name: str) -> None:
        parameters[name].data = native_in_place_of(name, parameters[name].data, state, pieces, dtype)

    # To compare them is to read both from the disk, or its cache: two at once.
    with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
        list(pool.map(restore, parameters))


def native_in_place_of(
    name: str,
    written: torch.Tensor,
    state: Mapping[str, torch.Tensor],
    pieces: Mapping[str, Piece],
    dtype: torch.dtype,
) -> torch.Tensor:
    """Raises UserError where `written` is not the native weight in `dtype`, bit for bit."""
    if not torch.equal(written.float(), take(state, pieces[name], dtype).float()):
        raise UserError(f"{name} was not written as it should be; is the disk full or broken?")
    return take(state, pieces[name], torch.float32)


@torch.no_grad()
def compare(native: nn.Module, converted: nn.Module, batches: Sequence[list[list[int]]]) -> dict[str, float]:
    """Differences over all logits of all prompts, and the largest logit.

    Prompts of a batch are padded at their ends: no token attends to what comes after it.
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


# --- layer by layer ---


def compare_layers(
    native_config: ModelConfig,
    weights: Sequence[Path],
    pieces: Mapping[str, Piece],
    folder: Path,
    dtype: torch.dtype,
    prompts: Sequence[list[int]],
) -> dict[str, Any]:
    """All prompts as one batch, so that every layer is read once."""

    def native_tensor(name: str) -> torch.Tensor:
        return load_state(weights)[name].float()

    def converted_tensor(name: str) -> torch.Tensor:
        (written,) = (t[name] for f in sorted(folder.glob("*.safetensors")) if name in (t := load_safetensors(f)))
        return native_in_place_of(name, written, load_state(weights), pieces, dtype)

    native = empty_native(native_config)
    blocks = [module for module in native.modules() if isinstance(module, OLMoBlock)]
    with torch.device("meta"):
        converted = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    # Its buffer is computed, not loaded.
    converted.model.rotary_emb = type(converted.model.rotary_emb)(converted.config)
    with (
        weights_while_used(native.eval(), blocks, native_tensor),
        weights_while_used(converted.eval(), converted.model.layers, converted_tensor),
    ):
        return compare(native, converted, [list(prompts)])


@contextmanager
def weights_while_used(model: nn.Module, layers: Sequence[nn.Module], load: Load) -> Iterator[None]:
    """Fill an empty model: embedding, last norm and head at once, each layer when it is called until it returns."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    in_layers = {id(parameter) for layer in layers for parameter in layer.parameters()}
    places = [(module, own, p) for module in model.modules() for own, p in module.named_parameters(recurse=False)]

    def fill(chosen: Sequence[tuple[nn.Module, str, nn.Parameter]]) -> None:
        for module, own, empty in chosen:
            module.register_parameter(own, nn.Parameter(load(names[id(empty)]), requires_grad=False))

    def release(chosen: Sequence[tuple[nn.Module, str, nn.Parameter]]) -> None:
        for module, own, empty in chosen:
            module.register_parameter(own, empty)

    fill([place for place in places if id(place[2]) not in in_layers])
    handles = []
    for layer in layers:
        own = {id(parameter) for parameter in layer.parameters()}
        chosen = [place for place in places if id(place[2]) in own]
        handles.append(layer.register_forward_pre_hook(lambda *_, chosen=chosen: fill(chosen)))
        handles.append(layer.register_forward_hook(lambda *_, chosen=chosen: release(chosen)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
