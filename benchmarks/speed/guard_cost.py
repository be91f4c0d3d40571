"""Cost of comparing the fast ways of a model with its plain forward pass, and how much they differ by noise alone.

Makes a random model of OLMo-1B's shape in float32, then times each comparison as it happens once a model: of
log-likelihoods, of generation with and without a shared prefix, and of training, padded and packed. Writes nothing.

    python benchmarks/speed/guard_cost.py --repeats 3
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from eval.engine import ways as evaluation_ways
from eval.engine.generation import generation_way
from eval.engine.log_likelihood import scoring_way
from open_instruct.common import plain_pass
from open_instruct.common.cli import run
from open_instruct.common.paths import REPOSITORY
from open_instruct.training import ways as training_ways

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
from models import OLMO_1B, SMALL, random_olmo

LONGEST = 100
"""Tokens of a sequence: no longer than any attention window."""


@dataclass(frozen=True)
class Args:
    repeats: int = 3
    """Timed comparisons; the median counts."""
    num_threads: int = 2
    small: bool = False
    """A model of two small layers, to try the program."""


def main(args: Args) -> None:
    torch.set_num_threads(args.num_threads)
    model = random_olmo(**(SMALL if args.small else OLMO_1B))
    plain = seconds_of(lambda: plain_pass.probe(model), args.repeats) / 2
    print(f"{sum(p.numel() for p in model.parameters()) / 1e9:.3g} G parameters, a plain pass {plain:.2f} s")
    comparisons: dict[str, Callable[[Any], object]] = {
        "log-likelihoods": lambda model: scoring_way(model, longest=LONGEST),
        "generation": lambda model: generation_way(model, longest=LONGEST, shares_prefix=False),
        "generation, shared prefix": lambda model: generation_way(model, longest=LONGEST, shares_prefix=True),
        "training, padded": lambda model: choose(model, packing=False),
        "training, packed": lambda model: choose(model, packing=True),
    }
    for name, compare in comparisons.items():
        differences = recorded_differences()
        seconds = seconds_of(lambda compare=compare: compare(forgotten(model)), args.repeats)
        print(f"{name}: {seconds:.2f} s = {seconds / plain:.1f} plain passes, differs by {max(differences):.1e} nats")


def choose(model: Any, *, packing: bool) -> training_ways.Way:
    model.set_attn_implementation("sdpa")
    return training_ways.choose_way(model, packing=packing, prefers_no_mask=False, longest=LONGEST)


def forgotten(model: Any) -> Any:
    """The model, as if it had just been loaded."""
    for record in (evaluation_ways._right, evaluation_ways._probes, evaluation_ways._taken):
        record.clear()
    return model


def recorded_differences() -> list[float]:
    """The list to which every difference from a plain pass is added from now on."""
    found: list[float] = []

    def recording(name: str, deviation: Any, probe: plain_pass.Probe) -> str | None:
        return fault(name, lambda probe: found.append(deviation(probe)) or found[-1], probe)

    fault = plain_pass.fault
    evaluation_ways.fault = training_ways.fault = recording
    return found


def seconds_of(function: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        started = time.monotonic()
        function()
        seconds.append(time.monotonic() - started)
    return median(seconds)


if __name__ == "__main__":
    run(main, Args)
