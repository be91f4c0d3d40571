"""Fine-tuning a model of OLMo-1B's size on a GPU beside Trainer and TRL: speed, memory, equal losses.

In bf16, with the same initial weights, examples and order. `short`: steps of 8 examples of about 60 tokens, padded;
`long`: steps of 4 examples of 2,048 tokens, ours packed. Peers pad, which costs nothing where lengths are alike.
"""

import gc
import importlib.util
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from open_instruct.common.cli import run
from open_instruct.common.paths import REPOSITORY
from open_instruct.data.encode import Encoded

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
sys.path.insert(0, str(REPOSITORY / "benchmarks" / "speed"))
from figures import Figures
from finetune_vs_peers import Setting, fine_tune, flops_a_step, make_examples, with_trainer, with_trl
from models import OLMO_1B, SMALL, random_olmo

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STEPS_A_LINE, UNTIMED_LINES = 4, 3
"""Times are those of lines of the log, at which all trainers wait for the GPU. In the first ones memory is allocated,
and layers are compiled for some shapes."""


@dataclass(frozen=True)
class Args:
    output_file: Path
    """JSON of the figures."""
    tiny: bool = False
    """A small model and few steps, to try the program on a CPU."""


@dataclass(frozen=True)
class Trained:
    seconds: float
    """Of a step, median."""
    losses: list[float]
    """Means of STEPS_A_LINE steps."""
    peak_bytes: int


def main(args: Args) -> None:
    figures = Figures(args.output_file)
    peak = matmul_speed(512 if args.tiny else 8192)
    figures.add("bf16 matrix products, 8192 x 8192 x 8192", peak / 1e12, "TFLOP/s")
    short, long = Setting("bf16", 8, (45, 75), (9, 17)), Setting("bf16", 4, (2048, 2048), (512, 512))
    if args.tiny:
        long = Setting("bf16", 2, (256, 256), (64, 64))
    compare(figures, "short", short, peak, args, packing=False)
    compare(figures, "long", long, peak, args, packing=True)


def compare(figures: Figures, name: str, setting: Setting, peak: float, args: Args, *, packing: bool) -> None:
    num_steps = STEPS_A_LINE * (UNTIMED_LINES + (1 if args.tiny else 4))
    rows = make_examples(setting, num_steps=num_steps)
    config = OLMO_1B | (SMALL if args.tiny else {}) | {"eos_token_id": 2}
    more = {"logging_steps": STEPS_A_LINE, "use_cpu": DEVICE == "cpu", "dataloader_pin_memory": DEVICE != "cpu"}
    trainers = {
        "ours": partial(ours, packing=packing),
        "Trainer": partial(with_trainer, **more),
        "TRL": partial(with_trl, **more),
        "ours, --torch_compile": partial(ours, packing=packing, torch_compile=True),
        "Trainer, torch_compile": partial(with_trainer, torch_compile=True, **more),
    }
    if args.tiny:  # a processor takes minutes to compile
        trainers = {trainer: train for trainer, train in trainers.items() if "torch_compile" not in trainer}
    if importlib.util.find_spec("trl") is None:
        del trainers["TRL"]
    done: dict[str, Trained] = {}
    num_tokens = sum(len(row.ids) for row in rows[-setting.batch_size :])
    flops = flops_a_step(rows[-setting.batch_size :], random_config(config))
    for trainer, train in trainers.items():
        done[trainer] = trained = measure(train, setting, rows, config, is_packed=packing and "ours" in trainer)
        figures.add(f"{name}: {trainer}", num_tokens / trained.seconds, "tokens/s")
        figures.add(f"{name}: {trainer}, peak memory", trained.peak_bytes / 1e9, "GB")
        if trainer.startswith("ours"):
            goal = 0.45 if name == "long" and not args.tiny else None
            share = flops / trained.seconds / peak
            figures.add(f"{name}: {trainer}, share of matrix products", share, at_least=goal)
        else:
            pairs = zip(trained.losses, done["ours"].losses, strict=True)
            worst = max(abs(theirs - own) / theirs for theirs, own in pairs)
            figures.add(f"{name}: {trainer}, largest relative difference of a loss", worst, at_most=0.01)
            ratio = trained.seconds / done["ours"].seconds
            goal = 2.0 if name == "short" and not args.tiny else None
            figures.add(f"{name}: ours, times {trainer}", ratio, at_least=goal)
    if "ours, --torch_compile" in done:
        peer = min(trained.seconds for trainer, trained in done.items() if not trainer.startswith("ours"))
        ratio = peer / done["ours, --torch_compile"].seconds
        figures.add(f"{name}: ours, --torch_compile, times the best peer", ratio)


def measure(train: Any, setting: Setting, rows: list[Encoded], config: dict[str, Any], *, is_packed: bool) -> Trained:
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with torch.device(DEVICE):
        model = random_olmo(**config, attn_implementation="packed" if is_packed else "sdpa")
    with tempfile.TemporaryDirectory() as folder:
        seconds, losses = train(None, setting, rows, Path(folder), model)
    peak_bytes = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else 0
    return Trained(median(seconds[UNTIMED_LINES:]) / STEPS_A_LINE, losses, peak_bytes)


def ours(
    _: Any, setting: Setting, rows: list[Encoded], folder: Path, model: Any, **options: Any
) -> tuple[list[float], list[float]]:
    precision = {"mixed_precision": setting.precision, "logging_steps": STEPS_A_LINE}
    return fine_tune(model, rows, setting.batch_size, folder, **precision, **options)


def random_config(config: dict[str, Any]) -> Any:
    with torch.device("meta"):
        return random_olmo(**config).config


def matmul_speed(size: int) -> float:
    """FLOP/s of a square matrix product in bf16, of random numbers."""
    a, b = (torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(5):
        wait()
        started = time.monotonic()
        for _ in range(5):
            a @ b
        wait()
        seconds.append((time.monotonic() - started) / 5)
    return 2 * size**3 / median(seconds)


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    run(main, Args)
