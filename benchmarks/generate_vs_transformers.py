"""Greedy generation here and by transformers' generate: the same prompts, the same model, the same text.

Prompts are those of SocialIQA question generation (about 60 tokens), at most 60 new tokens. A random model never ends a
text: a share of the vocabulary stands for EOS, for both sides, so that a given share of the texts ends by itself.
Both sides get the prompts sorted by length.

    python benchmarks/generate_vs_transformers.py                       # about four minutes on two cores
    python benchmarks/generate_vs_transformers.py --ended 0.5 --batch_sizes 64
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from models import documents, olmo_tokenizer, random_olmo
from transformers import OlmoForCausalLM

from eval.engine.generation import generate
from open_instruct.common.cli import run

MAX_NEW_TOKENS = 60
PAD = 1


@dataclass(frozen=True)
class Args:
    ended: tuple[float, ...] = (0.0, 0.5, 0.9)
    """Shares of the texts that end before the limit; one comparison each."""
    batch_sizes: tuple[int, ...] = (1, 16, 64)
    """Of transformers' generate. Here it is tried with the same and with the default."""
    num_prompts: int = 256
    """At batch sizes below 16 fewer are put to transformers."""
    num_threads: int = 2
    """Of torch."""


def main(args: Args) -> None:
    torch.set_num_threads(args.num_threads)
    tokenizer, model = olmo_tokenizer(), random_olmo()
    texts = [
        f"### Input: {row['context']}\n ### Answer: Answer A: {row['answerA']} Answer B: {row['answerB']} "
        f"Answer C: {row['answerC']}\n ### Question:"
        for row in documents("social_i_qa/none/validation")[: args.num_prompts]
    ]
    prompts = sorted(tokenizer(texts)["input_ids"], key=len, reverse=True)
    print(f"{len(prompts)} prompts of {min(map(len, prompts))} to {max(map(len, prompts))} tokens")
    print("prompts/s by the clock, and ratios by the clock and (in brackets) in processor time of all threads")
    print("ended  tokens  batch  transformers  here at that batch       here by default          same text")
    for ended in args.ended:
        endings = ending_tokens(ended)
        options = {"max_new_tokens": MAX_NEW_TOKENS, "eos_id": endings[0], "stop_ids": endings[1:]}
        generate(model, prompts[:8], **options)
        default, answers = timed(lambda options=options: generate(model, prompts, **options), len(prompts))
        ours = [answer.ids for answer in answers]
        for batch_size in args.batch_sizes:
            asked = spread(prompts, batch_size)
            some = [prompts[i] for i in asked]
            peer, theirs = timed(
                lambda some=some, size=batch_size, ids=endings: of_transformers(model, some, ids, size), len(some)
            )
            same_batch, _ = timed(
                lambda some=some, size=batch_size, options=options: generate(model, some, **options, batch_size=size),
                len(some),
            )
            same = sum(ours[i] == text for i, text in zip(asked, theirs, strict=True))
            print(
                f"{ended:5.0%}  {sum(map(len, ours)) / len(ours):6.1f}  {batch_size:5}  {peer.rate:12.1f}  "
                f"{told(same_batch, peer):23}  {told(default, peer):23}  {same} of {len(asked)}",
                flush=True,
            )


@dataclass(frozen=True)
class Speed:
    rate: float
    """Prompts a second."""
    cpu_seconds: float
    """A prompt; unlike the rate, it hardly depends on what else the machine does."""


Answer = TypeVar("Answer")


def timed(work: Callable[[], Answer], num_prompts: int) -> tuple[Speed, Answer]:
    started, cpu_started = time.perf_counter(), time.process_time()
    answer = work()
    cpu_seconds = (time.process_time() - cpu_started) / num_prompts
    return Speed(num_prompts / (time.perf_counter() - started), cpu_seconds), answer


def told(ours: Speed, peer: Speed) -> str:
    return f"{ours.rate:6.1f} {ours.rate / peer.rate:4.1f} x ({peer.cpu_seconds / ours.cpu_seconds:4.1f} x)"


def ending_tokens(ended: float) -> list[int]:
    """Tokens that stand for EOS: so many that a text of random tokens has met one within the limit that often."""
    each_step = 1 - (1 - ended) ** (1 / MAX_NEW_TOKENS)
    return random.Random(0).sample(range(1000, 50279), max(1, round(each_step * 50304)))


def spread(prompts: Sequence[list[int]], batch_size: int) -> list[int]:
    """All prompts, or for small batches every so many of them: transformers would take minutes."""
    step = 1 if batch_size >= 16 else max(1, len(prompts) // 16)
    return list(range(0, len(prompts), step))


def of_transformers(
    model: OlmoForCausalLM, prompts: Sequence[list[int]], endings: list[int], batch_size: int
) -> list[list[int]]:
    """What was written, without padding and without the token that stands for EOS."""
    written = []
    for first in range(0, len(prompts), batch_size):
        batch = prompts[first : first + batch_size]
        width = max(map(len, batch))
        ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in batch])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
        with torch.inference_mode():
            found = model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=MAX_NEW_TOKENS,
                do_sample=False,
                eos_token_id=endings,
                pad_token_id=PAD,
            )
        written += found[:, width:].tolist()
    return [up_to_ending(text, endings) for text in written]


def up_to_ending(text: list[int], endings: list[int]) -> list[int]:
    """As here: the first of the endings is EOS and is cut off, the others are kept."""
    place = next((i for i, token in enumerate(text) if token in endings), None)
    if place is None:
        return text
    return text[: place + (text[place] != endings[0])]


if __name__ == "__main__":
    run(main, Args)
