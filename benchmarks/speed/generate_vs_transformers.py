"""Greedy generation by eval/engine and by transformers' generate: the same prompts, model and output, and the speed.

Prompts are those of SocialIQA question generation (about 60 tokens), with at most 60 new tokens, sorted by length. A
random model never generates EOS: for both sides a share of the vocabulary counts as EOS, so that a given share of the
generations ends before the limit.

    python benchmarks/speed/generate_vs_transformers.py                       # about four minutes on two cores
    python benchmarks/speed/generate_vs_transformers.py --ended 0.5 --batch_sizes 64
"""

import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from transformers import OlmoForCausalLM, PreTrainedTokenizerFast

from eval.engine.generation import generate
from open_instruct.common.cli import run
from open_instruct.common.paths import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
from models import olmo_tokenizer, random_olmo, rows_of

MAX_NEW_TOKENS = 60
PAD = 1
Result = TypeVar("Result")


@dataclass(frozen=True)
class Args:
    ended: tuple[float, ...] = (0.0, 0.5, 0.9)
    """Shares of the generations that end before the limit; one comparison each."""
    batch_sizes: tuple[int, ...] = (1, 16, 64)
    """Of transformers' generate. Ours is measured with the same batch size and with the default."""
    num_prompts: int = 256
    """transformers gets 16 of them at batch sizes below 16."""
    num_threads: int = 2
    """Of torch."""


@dataclass(frozen=True)
class Speed:
    rate: float
    """Prompts a second."""
    cpu_seconds: float
    """CPU time of all threads for a prompt."""

    def compared_with(self, peer: "Speed") -> str:
        return f"{self.rate:6.1f} {self.rate / peer.rate:4.1f} x ({peer.cpu_seconds / self.cpu_seconds:4.1f} x)"


def main(args: Args) -> None:
    torch.set_num_threads(args.num_threads)
    tokenizer, model = olmo_tokenizer(), random_olmo()
    prompts = question_prompts(tokenizer, args.num_prompts)
    print(f"{len(prompts)} prompts of {min(map(len, prompts))} to {max(map(len, prompts))} tokens")
    print("prompts/s, and ratios by the clock and (in brackets) in CPU time of all threads")
    print("ended  tokens  batch  transformers  ours at that batch size  ours by default         same output")
    for ended in args.ended:
        eos_ids = eos_tokens(ended)
        ours = partial(generate, model, max_new_tokens=MAX_NEW_TOKENS, eos_id=eos_ids[0], stop_ids=eos_ids[1:])
        ours(prompts[:8])
        default, generations = timed(ours, prompts)
        outputs = [generation.ids for generation in generations]
        mean_length = sum(map(len, outputs)) / len(outputs)
        for batch_size in args.batch_sizes:
            indices = subset(len(prompts), batch_size)
            some = [prompts[i] for i in indices]
            peer, expected = timed(partial(generate_by_transformers, model, eos_ids, batch_size), some)
            same_batch, _ = timed(partial(ours, batch_size=batch_size), some)
            same = sum(outputs[i] == output for i, output in zip(indices, expected, strict=True))
            print(
                f"{ended:5.0%}  {mean_length:6.1f}  {batch_size:5}  {peer.rate:12.1f}  "
                f"{same_batch.compared_with(peer):23}  {default.compared_with(peer):23}  {same} of {len(indices)}",
                flush=True,
            )


def question_prompts(tokenizer: PreTrainedTokenizerFast, num_prompts: int) -> list[list[int]]:
    """Token ids of prompts of SocialIQA question generation, the longest first."""
    texts = [
        f"### Input: {row['context']}\n ### Answer: Answer A: {row['answerA']} Answer B: {row['answerB']} "
        f"Answer C: {row['answerC']}\n ### Question:"
        for row in rows_of("social_i_qa/none/validation")[:num_prompts]
    ]
    return sorted(tokenizer(texts)["input_ids"], key=len, reverse=True)


def eos_tokens(ended: float) -> list[int]:
    """Tokens that count as EOS: so many that a random generation has one within the limit with probability `ended`."""
    each_step = 1 - (1 - ended) ** (1 / MAX_NEW_TOKENS)
    return random.Random(0).sample(range(1000, 50279), max(1, round(each_step * 50304)))


def subset(num_prompts: int, batch_size: int) -> range:
    """All prompts, or 16 for small batches, with which transformers would take minutes."""
    return range(0, num_prompts, 1 if batch_size >= 16 else max(1, num_prompts // 16))


def timed(function: Callable[[Sequence[list[int]]], Result], prompts: Sequence[list[int]]) -> tuple[Speed, Result]:
    started, cpu_started = time.perf_counter(), time.process_time()
    result = function(prompts)
    cpu_seconds = (time.process_time() - cpu_started) / len(prompts)
    return Speed(len(prompts) / (time.perf_counter() - started), cpu_seconds), result


def generate_by_transformers(
    model: OlmoForCausalLM, eos_ids: list[int], batch_size: int, prompts: Sequence[list[int]], **more: Any
) -> list[list[int]]:
    """Generated ids without padding; of the stop tokens only the first, EOS, is removed, as by eval/engine.

    more: options of `model.generate`.
    """
    outputs = []
    for first in range(0, len(prompts), batch_size):
        batch = prompts[first : first + batch_size]
        width = max(map(len, batch))
        padding = [width - len(prompt) for prompt in batch]
        ids = [[PAD] * num + prompt for num, prompt in zip(padding, batch, strict=True)]
        mask = [[0] * num + [1] * (width - num) for num in padding]
        inputs = {
            name: torch.tensor(each, device=model.device)
            for name, each in (("input_ids", ids), ("attention_mask", mask))
        }
        options = {"max_new_tokens": MAX_NEW_TOKENS, "do_sample": False, "eos_token_id": eos_ids, "pad_token_id": PAD}
        with torch.inference_mode():
            outputs += model.generate(**inputs, **options, **more)[:, width:].tolist()
    ends = [next((i for i, token in enumerate(output) if token in eos_ids), None) for output in outputs]
    return [
        output if end is None else output[: end + (output[end] != eos_ids[0])]
        for output, end in zip(outputs, ends, strict=True)
    ]


if __name__ == "__main__":
    run(main, Args)
