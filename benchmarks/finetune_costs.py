"""What a fine-tuning step costs against sequence length, examples and vocabulary: linear where it should be.

Times open_instruct.training's own optimiser step on random tokens, one quantity varied at a time, and fits a straight
line (sequence length: a parabola, since attention looks back at everything). Prints each fit's largest deviation.
Writes  output/finetune_costs.png and .json

    python benchmarks/finetune_costs.py
"""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from open_instruct.common import paths
from open_instruct.common.cli import run

WIDTH, LAYERS, INNER, HEADS = 256, 4, 1024, 4
TARGETS_AN_EXAMPLE = 12


@dataclass(frozen=True)
class Args:
    num_tokens: tuple[int, ...] = (64, 128, 256, 512, 1024, 1536, 2048)
    """Lengths of an example; four of them make a step."""
    num_examples: tuple[int, ...] = (4, 8, 16, 24, 32, 48, 64)
    """Examples of 64 tokens that make a step."""
    vocabulary: tuple[int, ...] = (4_096, 8_192, 16_384, 32_768, 50_304, 65_536, 100_352)
    """Sizes, for eight examples of 64 tokens."""
    repeats: int = 5
    """Timed steps of each; the median counts."""
    num_threads: int = 1


@dataclass(frozen=True)
class Load:
    """One step."""

    num_tokens: int = 64
    num_examples: int = 8
    vocabulary: int = 16_384


def main(args: Args) -> None:
    import torch

    torch.set_num_threads(args.num_threads)
    sweeps = {
        "tokens an example": [Load(num_tokens=n, num_examples=4) for n in args.num_tokens],
        "examples a step": [Load(num_examples=n) for n in args.num_examples],
        "vocabulary": [Load(vocabulary=n) for n in args.vocabulary],
    }
    values = {
        "tokens an example": args.num_tokens,
        "examples a step": args.num_examples,
        "vocabulary": args.vocabulary,
    }
    found: dict[str, dict[str, Any]] = {}
    for name, loads in sweeps.items():
        seconds = [seconds_a_step(load, args.repeats) for load in loads]
        found[name] = fit(values[name], seconds, degree=2 if name == "tokens an example" else 1)
        report(name, found[name])
    output = paths.base_dir() / "output"
    output.mkdir(parents=True, exist_ok=True)
    (output / "finetune_costs.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found, output / "finetune_costs.png")
    print(f"wrote {output / 'finetune_costs.png'}")


def seconds_a_step(load: Load, repeats: int) -> float:
    """Median time of one optimiser step: forward, backward, clipping, AdamW."""
    import torch
    from accelerate import Accelerator
    from transformers import OlmoConfig, OlmoForCausalLM

    from open_instruct.data.encode import IGNORED, Encoded
    from open_instruct.training.arguments import Args as TrainingArgs
    from open_instruct.training.data import Examples, as_table
    from open_instruct.training.loop import Run, optimiser_step, prepare
    from open_instruct.training.loss import TargetLoss
    from open_instruct.training.state import Progress, State

    rng = np.random.default_rng(0)
    num_steps = repeats + 2  # memory is allocated in the first two
    examples = []
    for _ in range(load.num_examples * num_steps):
        ids = rng.integers(0, load.vocabulary, load.num_tokens).tolist()
        examples.append(Encoded(ids, [IGNORED] * (len(ids) - TARGETS_AN_EXAMPLE) + ids[-TARGETS_AN_EXAMPLE:]))
    steps = [list(range(i, i + load.num_examples)) for i in range(0, len(examples), load.num_examples)]
    torch.manual_seed(0)
    config = OlmoConfig(
        vocab_size=load.vocabulary,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        tie_word_embeddings=True,
        max_position_embeddings=4096,
        pad_token_id=1,
        eos_token_id=2,
    )
    training = TrainingArgs("", Path(), learning_rate=1e-4, total_batch_size=load.num_examples)
    # Held at once, so that what grows is work and not the number of micro-batches.
    training = replace(training, max_tokens_per_batch=load.num_tokens * load.num_examples)
    accelerator = Accelerator(cpu=True)
    prepared = prepare(training, accelerator, TargetLoss(OlmoForCausalLM(config)), num_steps=num_steps)
    with tempfile.TemporaryDirectory() as folder:
        state = State(Path(folder) / "run", accelerator, arguments={}, inputs={})
        of_run = Run(training, accelerator, *prepared, steps, Examples(as_table(examples)), None, state, lambda _: None)
        progress, times = Progress(), []
        for _ in steps:
            started = time.process_time() if torch.get_num_threads() == 1 else time.monotonic()
            optimiser_step(of_run, progress)
            ended = time.process_time() if torch.get_num_threads() == 1 else time.monotonic()
            times.append(ended - started)
    accelerator.free_memory()
    return median(times[2:])


def fit(values: Sequence[int], seconds: Sequence[float], *, degree: int) -> dict[str, Any]:
    """A polynomial by least squares of relative deviations, and the largest of these."""
    coefficients = np.polyfit(values, seconds, degree, w=1 / np.asarray(seconds))
    fitted = np.polyval(coefficients, values)
    return {
        "values": list(values),
        "seconds": [round(s, 5) for s in seconds],
        "coefficients": coefficients.tolist(),
        "fitted": fitted.tolist(),
        "largest_deviation": float(np.max(np.abs(fitted / seconds - 1))),
    }


def report(name: str, found: dict[str, Any]) -> None:
    *curved, slope, constant = found["coefficients"]
    terms = [f"{constant * 1e3:.1f} ms", f"{slope * 1e6:.3g} µs x {name}"]
    terms += [f"{square * 1e9:.3g} ns x ({name})²" for square in curved]
    print(
        f"{name}: {', '.join(f'{v}: {s * 1e3:.0f} ms' for v, s in zip(found['values'], found['seconds'], strict=True))}"
    )
    print(f"  = {' + '.join(terms)}, at most {found['largest_deviation']:.1%} off")
    for square in curved:
        longest = found["values"][-1]
        print(f"  the square's share at {longest}: {square * longest**2 / found['fitted'][-1]:.0%}")


def draw(found: dict[str, dict[str, Any]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(found), figsize=(4 * len(found), 3), layout="constrained")
    for panel, (name, points) in zip(panels, found.items(), strict=True):
        smooth = np.linspace(0, points["values"][-1], 200)
        panel.plot(smooth, np.polyval(points["coefficients"], smooth) * 1e3, color="0.6", linewidth=1)
        panel.plot(points["values"], np.asarray(points["seconds"]) * 1e3, "o", markersize=4)
        panel.set(xlabel=name, xlim=(0, None), ylim=(0, None))
    panels[0].set_ylabel("ms a step")
    figure.savefig(file, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    run(main, Args)
