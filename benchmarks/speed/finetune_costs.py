"""Time of a fine-tuning step against sequence length, examples and vocabulary, which should be linear.

Times steps of open_instruct.training on random tokens, one quantity varied at a time, and fits a line (for the length a
parabola, because of attention). Prints each fit and its largest deviation. Writes nothing but a temporary folder.

    python benchmarks/speed/finetune_costs.py --repeats 3
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from finetune_vs_peers import NUM_UNTIMED, fine_tune

from open_instruct.common.cli import run
from open_instruct.common.paths import REPOSITORY
from open_instruct.data.encode import IGNORED, Encoded

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
from models import random_olmo

TARGETS_AN_EXAMPLE = 12


@dataclass(frozen=True)
class Args:
    num_tokens: tuple[int, ...] = (64, 128, 256, 512, 1024, 1536, 2048)
    """Lengths of an example, in steps of four examples."""
    num_examples: tuple[int, ...] = (4, 8, 16, 24, 32, 48, 64)
    """Examples of 64 tokens in a step."""
    vocabulary: tuple[int, ...] = (4_096, 8_192, 16_384, 32_768, 50_304, 65_536, 100_352)
    """Sizes, in steps of eight examples of 64 tokens."""
    repeats: int = 5
    """Timed steps; the median counts."""
    num_threads: int = 1


@dataclass(frozen=True)
class Step:
    num_tokens: int = 64
    num_examples: int = 8
    vocabulary: int = 16_384


def main(args: Args) -> None:
    torch.set_num_threads(args.num_threads)
    sweeps = {
        "tokens an example": (2, {n: Step(num_tokens=n, num_examples=4) for n in args.num_tokens}),
        "examples a step": (1, {n: Step(num_examples=n) for n in args.num_examples}),
        "vocabulary": (1, {n: Step(vocabulary=n) for n in args.vocabulary}),
    }
    for name, (degree, steps) in sweeps.items():
        report(name, {value: seconds_of(step, args.repeats) for value, step in steps.items()}, degree)


def seconds_of(step: Step, repeats: int) -> float:
    """Median time of a step; CPU time if there is one thread."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(step.num_examples * (repeats + NUM_UNTIMED)):
        ids = rng.integers(0, step.vocabulary, step.num_tokens).tolist()
        rows.append(Encoded(ids, [IGNORED] * (len(ids) - TARGETS_AN_EXAMPLE) + ids[-TARGETS_AN_EXAMPLE:]))
    config = {"num_attention_heads": 4, "max_position_embeddings": 4096, "eos_token_id": 2}
    model = random_olmo(vocab_size=step.vocabulary, initializer_range=0.02, **config)
    with tempfile.TemporaryDirectory() as folder:
        seconds, _ = fine_tune(
            model,
            rows,
            step.num_examples,
            Path(folder),
            clock=time.process_time if torch.get_num_threads() == 1 else time.monotonic,
            # One micro-batch a step, so that their number does not change.
            max_tokens_per_batch=step.num_tokens * step.num_examples,
        )
    return median(seconds[NUM_UNTIMED:])


def report(name: str, measured: dict[int, float], degree: int) -> None:
    """Fit a polynomial by least squares of relative deviations, and print it."""
    values, seconds = np.array(list(measured)), np.array(list(measured.values()))
    coefficients = np.polyfit(values, seconds, degree, w=1 / seconds)
    fitted = np.polyval(coefficients, values)
    *square, slope, constant = coefficients
    terms = [f"{constant * 1e3:.1f} ms", f"{slope * 1e6:.3g} µs x {name}"]
    terms += [f"{value * 1e9:.3g} ns x ({name})²" for value in square]
    print(f"{name}: {', '.join(f'{v}: {s * 1e3:.0f} ms' for v, s in measured.items())}")
    print(f"  = {' + '.join(terms)}, at most {np.max(np.abs(fitted / seconds - 1)):.1%} off", flush=True)
    for value in square:
        print(f"  share of the square at {values[-1]}: {value * values[-1] ** 2 / fitted[-1]:.0%}")


if __name__ == "__main__":
    run(main, Args)
