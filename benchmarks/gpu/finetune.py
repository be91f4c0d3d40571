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
from open_instruct.training.attention import WITHOUT_MASK

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
sys.path.insert(0, str(REPOSITORY / "benchmarks" / "speed"))
from figures import Figures
from finetune_vs_peers import WARMUP_STEPS, Setting, fine_tune, flops_a_step, make_examples, with_trainer, with_trl
from models import OLMO_1B, SMALL, random_olmo

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STEPS_A_LINE = 4
"""At each line of the log all trainers wait for the GPU."""
NUM_PASSES = 4
"""Over the same steps; in the first half kernels are loaded, memory is allocated, and shapes are captured or compiled,
which is not timed."""
SHORT, LONG = Setting("bf16", 8, (45, 75), (9, 17)), Setting("bf16", 4, (2048, 2048), (512, 512))
TINY_LONG = Setting("bf16", 2, (256, 256), (64, 64))


@dataclass(frozen=True)
class Args:
    output_file: Path
    """JSON of the figures."""
    tiny: bool = False
    """A small model and few steps, to try the program on a CPU."""


@dataclass(frozen=True)
class Trained:
    seconds: float
    """Of a step, median of the timed lines."""
    losses: list[float]
    """Means of STEPS_A_LINE steps."""
    peak_bytes: int


def main(args: Args) -> None:
    figures = Figures(args.output_file)
    peak = matmul_speed(512 if args.tiny else 8192)
    figures.add("bf16 matrix products, 8192 x 8192 x 8192", peak / 1e12, "TFLOP/s")
    more = {"logging_steps": STEPS_A_LINE, "use_cpu": DEVICE == "cpu", "dataloader_pin_memory": DEVICE != "cpu"}
    peers = {"Trainer": partial(with_trainer, **more), "TRL": partial(with_trl, **more)}
    if importlib.util.find_spec("trl") is None:
        del peers["TRL"]
    config = OLMO_1B | (SMALL if args.tiny else {}) | {"eos_token_id": 2}
    compare = partial(Comparison, figures, config=config, peak=peak, num_passes=2 if args.tiny else NUM_PASSES)
    short = compare("short", SHORT, num_steps=8, packing=False)
    long = compare("long", TINY_LONG if args.tiny else LONG, num_steps=4, packing=True)
    for each in (short, long):
        each.run_ours("ours", goal=0.45 if each is long and not args.tiny else None)
        for peer, train in peers.items():
            each.run_peer(peer, train, goal=2.0 if each is short and not args.tiny else None)
    if args.tiny:  # a processor takes minutes to compile
        return
    for each in (long, short):
        each.run_ours("ours, --torch_compile", torch_compile=True)


class Comparison:
    """Trainers on the same model and examples."""

    def __init__(
        self,
        figures: Figures,
        name: str,
        setting: Setting,
        config: dict[str, Any],
        peak: float,
        *,
        num_steps: int,
        num_passes: int,
        packing: bool,
    ) -> None:
        """peak: FLOP/s of matrix products; num_steps: of a pass."""
        self.figures, self.name, self.setting, self.config = figures, name, setting, config
        self.peak, self.packing = peak, packing
        one_pass = make_examples(setting, num_steps=num_steps)
        self.rows = one_pass * num_passes
        self.tokens_a_step = sum(len(row.ids) for row in one_pass) / num_steps
        with torch.device("meta"):
            self.flops_a_step = flops_a_step(one_pass, random_olmo(**config).config) / num_steps
        self.ours: Trained | None = None

    def run_ours(self, name: str, *, goal: float | None = None, **options: Any) -> None:
        """goal: share of the speed of matrix products"""
        self.ours = self.measure(name, partial(ours, packing=self.packing, **options), is_ours=True)
        share = self.flops_a_step / self.ours.seconds / self.peak
        self.figures.add(f"{self.name}: {name}, share of matrix products", share, at_least=goal)

    def run_peer(self, name: str, train: Any, *, goal: float | None = None) -> None:
        """goal: times as fast"""
        trained, own = self.measure(name, train), self.ours
        assert own is not None
        worst = max(abs(a - b) / b for a, b in zip(own.losses, trained.losses, strict=True))
        self.figures.add(f"{self.name}: {name}, largest relative difference of a loss", worst, at_most=0.01)
        self.figures.add(f"{self.name}: ours, times {name}", trained.seconds / own.seconds, at_least=goal)

    def measure(self, name: str, train: Any, *, is_ours: bool = False) -> Trained:
        trained = run_once(train, self.setting, self.rows, self.config, is_ours=is_ours)
        self.figures.add(f"{self.name}: {name}", self.tokens_a_step / trained.seconds, "tokens/s")
        self.figures.add(f"{self.name}: {name}, peak memory", trained.peak_bytes / 1e9, "GB")
        return trained


def run_once(train: Any, setting: Setting, rows: list[Encoded], config: dict[str, Any], *, is_ours: bool) -> Trained:
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        torch.backends.cuda.enable_cudnn_sdp(True)  # the default, which ours changes
    with torch.device(DEVICE):
        model = random_olmo(**config, attn_implementation=WITHOUT_MASK if is_ours else "sdpa")
    with tempfile.TemporaryDirectory() as folder:
        seconds, losses = train(None, setting, rows, Path(folder), model)
    peak_bytes = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else 0
    return Trained(median(seconds[len(seconds) // 2 :]) / STEPS_A_LINE, losses, peak_bytes)


def ours(
    _: Any, setting: Setting, rows: list[Encoded], folder: Path, model: Any, **options: Any
) -> tuple[list[float], list[float]]:
    same = {"mixed_precision": setting.precision, "warmup_ratio": WARMUP_STEPS * setting.batch_size / len(rows)}
    return fine_tune(model, rows, setting.batch_size, folder, logging_steps=STEPS_A_LINE, **same, **options)


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
