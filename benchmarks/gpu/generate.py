"""Greedy generation by a model of OLMo-1B's size on a GPU, beside transformers' `generate`: speed and equal text.

The prompts are those of generate_vs_transformers.py, all of them in one batch. No generation ends before 60 tokens.

    python benchmarks/gpu/generate.py --output_file /tmp/generate.json
    python benchmarks/gpu/generate.py --output_file /tmp/generate.json --tiny    # in miniature, on a CPU
"""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from eval.engine.generation import Generated, generate
from open_instruct.common.cli import run
from open_instruct.common.paths import REPOSITORY

sys.path.extend([str(REPOSITORY / "benchmarks"), str(REPOSITORY / "benchmarks" / "speed")])
from figures import Figures
from generate_vs_transformers import MAX_NEW_TOKENS, eos_tokens, generate_by_transformers, question_prompts, timed
from models import OLMO_1B, SMALL, olmo_tokenizer, random_olmo_on

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EOS_IDS = eos_tokens(0.0)
NUM_TIMES = 2
"""Runs that are timed, after one that is not; the fastest counts."""
COMPILATION_SECONDS = 30


@dataclass(frozen=True)
class Args:
    output_file: Path
    """JSON of the figures."""
    tiny: bool = False
    """A small model and few prompts, to try the program on a CPU."""


def main(args: Args) -> None:
    figures = Figures(args.output_file)
    prompts = question_prompts(olmo_tokenizer(), 8 if args.tiny else 256)
    config = OLMO_1B | (SMALL if args.tiny else {})
    goal = None if args.tiny else 1.5
    model = random_olmo_on(DEVICE, torch.bfloat16, **config)
    ours, generations = measure(figures, "ours", with_engine(model), prompts)
    measure(figures, "ours, without CUDA graph", with_engine(model, cuda_graph=False), prompts)
    peer, texts = measure(figures, "transformers", with_transformers(model), prompts)
    figures.add("bf16: ours, times transformers", ours / peer, at_least=goal)
    figures.add(f"bf16: texts of {len(prompts)} that differ from transformers'", num_differing(generations, texts))

    precise, some = random_olmo_on(DEVICE, torch.float32, **config), prompts[::8]
    differing = num_differing(with_engine(precise)(some), with_transformers(precise)(some))
    figures.add(f"fp32: texts of {len(some)} that differ from transformers'", differing, at_most=0)
    del precise

    try:
        with time_limit(COMPILATION_SECONDS):
            static = with_transformers(model, cache_implementation="static")
            peer, _ = measure(figures, "transformers, static cache, compiled", static, prompts)
    except (RuntimeError, TimeoutError) as error:  # it needs a C compiler, and minutes where nothing is cached
        figures.add("bf16: transformers, static cache, compiled", f"failed: {type(error).__name__}: {error}"[:200])
    else:
        figures.add("bf16: ours, times transformers with a static cache, compiled", ours / peer, at_least=goal)


def with_engine(model: Any, **options: Any) -> Callable[[Sequence[list[int]]], list[Generated]]:
    return partial(generate, model, max_new_tokens=MAX_NEW_TOKENS, eos_id=EOS_IDS[0], **options)


def with_transformers(model: Any, **options: Any) -> Callable[[Sequence[list[int]]], list[list[int]]]:
    def of_all(prompts: Sequence[list[int]]) -> list[list[int]]:
        return generate_by_transformers(model, EOS_IDS, len(prompts), prompts, **options)

    return of_all


def measure(
    figures: Figures, name: str, function: Callable[[Sequence[list[int]]], Any], prompts: Sequence[list[int]]
) -> tuple[float, Any]:
    """Time a function of the prompts.  -> new tokens a second, and its result"""
    function(prompts)
    speeds, results = zip(*(timed(function, prompts) for _ in range(NUM_TIMES)), strict=True)
    rate = max(speed.rate for speed in speeds) * MAX_NEW_TOKENS
    figures.add(f"bf16: {name}", rate, "tokens/s")
    return rate, results[-1]


def num_differing(generations: Sequence[Generated], texts: Sequence[list[int]]) -> int:
    return sum(ours.ids != theirs for ours, theirs in zip(generations, texts, strict=True))


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in the block after `seconds`."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


if __name__ == "__main__":
    run(main, Args)
