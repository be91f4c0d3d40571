"""The public suites of checkpoints on a loopback Hub: revisions in their real naming, hundreds of them, with gaps.

Only those of CHOSEN hold a model, random weights of the suite's architecture in one layer; the others hold a config.
"""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from loopback_hub import LoopbackHub
from toy_conversion import LLAMA, to_hub
from toy_models import toy_native_olmo, toy_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

DATADECIDE = "allenai/DataDecide-c4-4M"
PYTHIA = "EleutherAI/pythia-14m"
AUXILIARY = ("small-aux-2", "small-aux-3")
"""Runs of DataDecide that were stopped early."""
PYTHIA_RUNS = ("", "-seed1", "-seed2")
"""Of the ten repositories, those that are there."""
INGREDIENTS = ("1", "2", "3")
ODD = ("experiment", "it-SFT", "stage1-old", "step1000-unsharded")
"""Revisions that are no checkpoints, of every repository."""
WITHOUT_MAIN = ("HuggingFaceTB/SmolLM3-3B-checkpoints",)
"""Repositories whose `main` holds a README alone."""

CHOSEN: dict[str, tuple[str, tuple[str, ...]]] = {
    DATADECIDE: (
        "hf_olmo",
        tuple(f"step1250-seed-{run}" for run in ("default", *AUXILIARY)),
    ),
    **{f"{PYTHIA}{run}": ("gpt_neox", ("step512", "step48000")) for run in PYTHIA_RUNS},
    "allenai/OLMo-2-0425-1B": (
        "olmo2",
        ("stage1-step140000-tokens294B", *(f"stage2-ingredient{run}-step23852-tokens51B" for run in INGREDIENTS)),
    ),
    "allenai/Olmo-3-1025-7B": ("olmo3", ("stage1-step1000000", "stage2-step47684")),
    "HuggingFaceTB/SmolLM2-135M-intermediate-checkpoints": ("llama", ("step-240000",)),
    "HuggingFaceTB/SmolLM3-3B-checkpoints": ("llama", ("stage1-step-40000",)),
    "allenai/OLMo-1B-hf": ("olmo", ("step20000-tokens83B",)),
    "LLM360/Amber": ("llama", ("ckpt_010",)),
}
"""Repository -> its type of model, and the revisions that hold one."""


def revisions() -> Iterator[tuple[str, str]]:
    """A repository and the name of a revision each."""
    for run in ("default", *AUXILIARY):
        last = 5725 if run == "default" else 1375
        # small-aux-3 lacks a step.
        steps = [step for step in (*range(0, last, 125), last) if (run, step) != ("small-aux-3", 250)]
        yield from ((DATADECIDE, f"step{step}-seed-{run}") for step in steps)
    powers = (0, *(2**n for n in range(10)))
    for run in PYTHIA_RUNS:
        yield from ((f"{PYTHIA}{run}", f"step{step}") for step in (*powers, *range(1000, 144_000, 1000)))
    for step in (*range(10_000, 1_907_359, 10_000), 1_907_359):
        if not 500_000 < step < 600_000:
            yield "allenai/OLMo-2-0425-1B", f"stage1-step{step}-tokens{-(-step * 2_097_152 // 10**9)}B"
    for run in INGREDIENTS:
        for step in (*range(1000, 23_852, 1000), 23_852):
            yield "allenai/OLMo-2-0425-1B", f"stage2-ingredient{run}-step{step}-tokens{-(-step * 2_097_152 // 10**9)}B"
    for step in (*range(0, 1_413_814, 10_000), 1_413_814):
        yield "allenai/Olmo-3-1025-7B", f"stage1-step{step}"
    for step in (*range(1000, 47_684, 1000), 47_684):
        yield "allenai/Olmo-3-1025-7B", f"stage2-step{step}"
    yield from (("allenai/Olmo-3-1025-7B", f"stage3-step{step}") for step in (*range(1000, 11_921, 1000), 11_921))
    for mix in ("gen-mc-only", "math-code-reasoning-web", "round5"):
        yield "allenai/Olmo-3-1025-7B", f"stage2-step47684-mix-{mix}-from-2T-ckpt"
    for number in range(1, 9):
        yield "HuggingFaceTB/SmolLM2-135M-intermediate-checkpoints", f"step-{number * 240_000}"
    for number, step in enumerate(range(40_000, 4_720_001, 40_000)):
        stage = 1 if step <= 3_440_000 else 2 if step <= 4_200_000 else 3
        if number != 5:
            yield "HuggingFaceTB/SmolLM3-3B-checkpoints", f"stage{stage}-step-{step}"
    for part in ("lc-4k-to-32k", "lc-32k-to-64k"):
        yield from (
            ("HuggingFaceTB/SmolLM3-3B-checkpoints", f"{part}-step-{step}") for step in range(4000, 20_001, 4000)
        )
    for step in (*range(0, 738_000, 1000), 738_020):
        if not 118_000 < step < 330_000:
            yield "allenai/OLMo-1B-hf", f"step{step}-tokens{step * 4_194_304 // 10**9}B"
    yield from (("LLM360/Amber", f"ckpt_{number:03}") for number in range(360))


def publish(hub: LoopbackHub, folder: Path) -> None:
    """Add every revision of every suite, and `main`; models are made in `folder`."""
    seed = 0
    for repository, (kind, models) in CHOSEN.items():
        readme = {"README.md": "The checkpoints are in other branches."}
        hub.add("model", repository, readme if repository in WITHOUT_MAIN else {"config.json": "{}"})
        for name in ODD:
            hub.add("model", repository, {"config.json": "{}"}, ref=name)
        for name in (one for of, one in revisions() if of == repository and one not in models):
            hub.add("model", repository, {"config.json": "{}"}, ref=name)
        for name in models:
            # Weights of one content under two steps are refused.
            seed += 1
            place = folder / repository.replace("/", "--") / name
            make_model(kind, place, seed)
            hub.add("model", repository, {path.name: path for path in place.iterdir()}, ref=name)


def make_model(kind: str, folder: Path, seed: int) -> None:
    """Save a random model of one layer: `hf_olmo` in that layout, with OLMo's vocabulary; others with a toy one."""
    if kind == "hf_olmo":
        sizes = {"d_model": 16, "n_layers": 1, "n_heads": 2, "mlp_hidden_size": 64, "max_sequence_length": 512}
        toy_native_olmo(folder, seed=seed, vocab_size=50_280, embedding_size=50_304, **sizes, **LLAMA)
        to_hub(folder, num_files=1, suffix="bin")
        return
    tokenizer = toy_tokenizer(folder)
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings)).save_pretrained(folder)


def environment(hub: LoopbackHub, base_dir: Path) -> dict[str, str]:
    """Of a process that finds the loopback Hub alone, with its cache in base_dir."""
    names = {"HF_ENDPOINT": hub.url, "HF_HOME": str(base_dir / "cache"), "HF_HUB_DISABLE_XET": "1"}
    return os.environ | names | {"HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1,localhost", "base_dir": str(base_dir)}


@cache
def number_of(repository: str) -> int:
    """Number of its checkpoints, `main` not counted."""
    return sum(of == repository for of, _ in revisions())
