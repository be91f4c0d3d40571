"""Proof that a converted checkpoint is the same model: the logits of OLMo's own code against those of transformers."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from olmo.config import ModelConfig
from olmo.model import OLMo
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from open_instruct.encode import encode_prompts
from open_instruct.olmo_hf.weights import Piece, take
from open_instruct.records import UserError

TOLERANCE = 1e-4
"""Largest difference allowed, as a share of the largest logit where that is above 1, since float32 rounds relatively:
another attention kernel alone moves logits of 10 by 5e-5, a wrong mapping by whole units (docs/convert.md)."""
TEXT = (
    "The Amazon river carries more water than the next seven largest rivers together.\n"
    "### Input: Jordan left the party early.\n ### Question: Why did Jordan do this?"
)
RANDOM_LENGTHS = (1, 2, 17, 64, 256)
"""Tokens of the random prompts; the long one makes far positions, and so the rotary base, count."""


def verify(
    native_config: ModelConfig,
    state: Mapping[str, torch.Tensor],
    pieces: Mapping[str, Piece],
    folder: Path,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Compare the native model with the one in `folder` in float32; returns what was measured.

    Raises UserError where the logits differ, or the written weights are not the native ones in `dtype`.
    """
    prompts = make_prompts(folder, native_config)
    native = build_native(native_config, state)
    converted = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    measured: dict[str, Any] = {"num_prompts": len(prompts), "num_tokens": sum(len(ids) for ids in prompts)}
    if dtype != torch.float32:
        measured["after_cast"] = compare(native, converted, prompts)
    restore_full_precision(converted, state, pieces, dtype)
    measured |= compare(native, converted, prompts)
    measured["tolerance"] = TOLERANCE * max(1.0, measured["max_abs_logit"])
    print(
        f"logits differ by at most {measured['max_abs_difference']:.2e} (mean {measured['mean_abs_difference']:.2e}, "
        f"allowed {measured['tolerance']:.2e}) over {measured['num_tokens']} tokens of {len(prompts)} prompts"
    )
    # Negated, so that a difference which is not a number fails too.
    if not measured["max_abs_difference"] <= measured["tolerance"]:
        raise UserError(
            f"the converted model is not the native one: logits differ by {measured['max_abs_difference']:.2e}, "
            f"allowed {measured['tolerance']:.2e}; {folder} was removed. Download the checkpoint "
            "again; where that does not help, its code is not the one that docs/convert.md describes"
        )
    return measured


def make_prompts(folder: Path, config: ModelConfig) -> list[list[int]]:
    """Seeded random ids of several lengths, and a text. Each is at most as long as the model takes."""
    generator = torch.Generator().manual_seed(0)
    longest = config.max_sequence_length
    lengths = sorted({min(length, longest) for length in RANDOM_LENGTHS})
    random = [torch.randint(config.vocab_size, (n,), generator=generator).tolist() for n in lengths]
    text = encode_prompts(AutoTokenizer.from_pretrained(folder), [TEXT])[0]
    return [*random, text[:longest]]


def build_native(config: ModelConfig, state: Mapping[str, torch.Tensor]) -> OLMo:
    """The native model in float32, on the mapped tensors of its checkpoint."""
    # Neither changes what is computed: no memory for weights that are replaced at once, no GPU kernel.
    model = OLMo(dataclasses.replace(config, init_device="meta", flash_attention=False), init_params=False)
    # A tied head is no tensor of its own here; a strict load also shows that OLMo agrees on the names.
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    return model.eval()


def restore_full_precision(
    converted: PreTrainedModel, state: Mapping[str, torch.Tensor], pieces: Mapping[str, Piece], dtype: torch.dtype
) -> None:
    """Check that every written weight is the native one in `dtype`, bit for bit, and put the native one in place.

    Raises UserError that names the first other weight.
    """
    for name, parameter in converted.named_parameters():
        if not torch.equal(parameter.data, take(state, pieces[name], dtype).float()):
            raise UserError(f"{name} was not written as it should be; is the disk full or broken?")
        parameter.data = take(state, pieces[name], torch.float32)


@torch.no_grad()
def compare(native: OLMo, converted: PreTrainedModel, prompts: list[list[int]]) -> dict[str, float]:
    """Differences over all logits of all prompts, and the largest logit. Prompts go one by one: no padding."""
    largest, total, count, largest_logit = 0.0, 0.0, 0, 0.0
    for ids in prompts:
        inputs = torch.tensor([ids])
        # (1, seq, embedding)
        expected, found = native(inputs).logits, converted(inputs).logits
        difference = (expected - found).abs()
        # torch's maximum passes nan on; Python's would lose it.
        largest = torch.stack([torch.tensor(largest), difference.max()]).max().item()
        largest_logit = max(largest_logit, expected.abs().max().item())
        total, count = total + difference.sum().item(), count + difference.numel()
    return {"max_abs_difference": largest, "mean_abs_difference": total / count, "max_abs_logit": largest_logit}
