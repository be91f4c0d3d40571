"""Ranked classification by a model of OLMo-1B's size on a GPU, beside lm-eval: the same requests, speed and choices.

In bf16 for speed, in fp32 for equal choices; without exemplars and with five fixed ones. Tokenisation is timed; so is
everything else but the detection of lm-eval's batch size. Needs lm-eval==0.4.13.

    python benchmarks/gpu/rank.py --output_file /tmp/rank.json
    python benchmarks/gpu/rank.py --output_file /tmp/rank.json --tiny    # in miniature, on a CPU
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from olmo_eval.instances import Instance, load_instances
from olmo_eval.tasks import DEFAULT_TASKS, task_named
from open_instruct.common.cli import run
from open_instruct.common.paths import REPOSITORY

sys.path.extend([str(REPOSITORY / "benchmarks"), str(REPOSITORY / "benchmarks" / "agreement")])
from figures import Figures
from models import OLMO_1B, SMALL, olmo_tokenizer, random_olmo_on
from ranking_vs_lm_eval import SHOTS, agreement, hflm, log_likelihoods, scored_by_both, total

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NUM_TIMED = {"none": 100, "fixed": 40}
NUM_COMPARED = {"none": 20, "fixed": 5}
"""Instances of each task, by kind of exemplars: in bf16, and in fp32, which takes ten times as long."""
Instances = Mapping[str, Sequence[Instance]]
"""By task."""


@dataclass(frozen=True)
class Args:
    output_file: Path
    """JSON of the figures."""
    tiny: bool = False
    """A small model and few instances, to try the program on a CPU."""


def main(args: Args) -> None:
    figures, tokenizer = Figures(args.output_file), olmo_tokenizer()
    config = OLMO_1B | (SMALL if args.tiny else {})
    # Of 64, lm-eval's default, as many as fit; on a CPU it would run out of memory before it noticed.
    most = 2 if args.tiny else 64
    instances = {
        kind: {name: instances_of(name, kind, 1 if args.tiny else number) for name in DEFAULT_TASKS}
        for kind, number in NUM_TIMED.items()
    }
    model = random_olmo_on(DEVICE, torch.bfloat16, **config)
    for kind in NUM_TIMED:
        peer = hflm(model, tokenizer, batch_size=detected_batch_size(model, tokenizer, instances[kind], most))
        compare(
            figures,
            f"{SHOTS[kind][0]} shots, bf16",
            instances[kind],
            model,
            tokenizer,
            peer,
            goal=None if args.tiny else 4,
        )
    model = random_olmo_on(DEVICE, torch.float32, **config)
    for kind, number in NUM_COMPARED.items():
        some = {name: each[:number] for name, each in instances[kind].items()}
        peer = hflm(model, tokenizer, batch_size=2 if args.tiny else 16)
        compare(figures, f"{SHOTS[kind][0]} shots, fp32", some, model, tokenizer, peer, most_differing=0)


def instances_of(name: str, exemplars: str, number: int) -> list[Instance]:
    num_shots, seed = SHOTS[exemplars]
    return load_instances(task_named(name), num_shots=num_shots, fewshot_seed=seed, limit=number)


def detected_batch_size(model: Any, tokenizer: Any, instances: Instances, most: int) -> int:
    """What lm-eval's `auto` finds for the longest of all requests, which it would be given in one call."""
    peer = hflm(model, tokenizer, batch_size="auto", max_batch_size=most)
    of_all_tasks = [instance for each in instances.values() for instance in each]
    longest = max(of_all_tasks, key=lambda instance: max(map(len, instance.item.contexts)))
    log_likelihoods(peer, [longest], unconditioned=None)
    return peer.batch_sizes[0]


def compare(
    figures: Figures,
    name: str,
    instances: Instances,
    model: Any,
    tokenizer: Any,
    peer: Any,
    *,
    goal: float | None = None,
    most_differing: int | None = None,
) -> None:
    """goal: of the speed, times lm-eval's; most_differing: choices."""
    timings, differences, num_differing = [], [], 0
    for task_name, each in instances.items():
        predictions, peer_scores, timing = scored_by_both(task_named(task_name), each, model, tokenizer, peer)
        difference, number = agreement(predictions, peer_scores)
        timings.append(timing)
        differences.append(difference)
        num_differing += number
    num_instances, times = sum(map(len, instances.values())), total(timings)
    figures.add(f"{name}: ours", num_instances / times.seconds, "instances/s")
    figures.add(f"{name}: lm-eval, batch size {peer.batch_size}", num_instances / times.peer_seconds, "instances/s")
    figures.add(f"{name}: ours, times lm-eval", times.peer_seconds / times.seconds, at_least=goal)
    figures.add(f"{name}: choices of {num_instances} that differ", num_differing, at_most=most_differing)
    figures.add(f"{name}: largest difference of a log-likelihood", max(differences), "nats")


if __name__ == "__main__":
    run(main, Args)
