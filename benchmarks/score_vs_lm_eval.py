"""Scores of continuations here and by lm-eval's HFLM 0.4.13: the same requests, the same model, the same numbers.

Requests are those of arc_easy, four continuations a document: without exemplars, and after five that are the same for
all documents. Both sides get texts: tokenising them is part of the time. Each side has scored some before.

    python benchmarks/score_vs_lm_eval.py       # two minutes on two cores; ends with 1 where they differ
    python benchmarks/score_vs_lm_eval.py --shots 5 --documents 20 --batch_size 8
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from lm_eval_peer import agreement, log_likelihoods, peer
from models import olmo_tokenizer, random_olmo

from eval.engine.scoring import MAX_BATCH_TOKENS
from olmo_eval.instances import Instance, load_instances
from olmo_eval.ranking import Prediction, predict
from olmo_eval.tasks import task_named
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError

MOST_DIFFERENCE = 1e-4
"""Of a log-likelihood, in nats."""
FEWSHOT_SEED = 42
NUM_WARM_UP = 8
"""Documents."""


@dataclass(frozen=True)
class Args:
    shots: tuple[int, ...] = (0, 5)
    """Numbers of exemplars; one comparison each."""
    documents: tuple[int, ...] = (200, 100)
    """Documents asked, for each number of exemplars."""
    batch_size: int = 32
    """Of HFLM."""
    num_threads: int = 2
    """Of torch."""


def main(args: Args) -> None:
    if len(args.shots) != len(args.documents):
        raise UserError(f"found {len(args.shots)} --shots and {len(args.documents)} --documents; expected one for each")
    torch.set_num_threads(args.num_threads)
    model, tokenizer, task = random_olmo(), olmo_tokenizer(), task_named("arc_easy")
    lm = peer(model, tokenizer, batch_size=args.batch_size)

    def ours(instances: Sequence[Instance]) -> list[Prediction]:
        return predict(
            model, tokenizer, instances, unconditioned=None, max_length=2048, max_batch_tokens=MAX_BATCH_TOKENS
        )

    is_same = True
    print("shots  documents  continuations  here       HFLM       ratio   largest difference  choose otherwise")
    for num_shots, limit in zip(args.shots, args.documents, strict=True):
        instances = load_instances(task, num_shots=num_shots, fewshot_seed=FEWSHOT_SEED, limit=limit)
        ours(instances[:NUM_WARM_UP])
        log_likelihoods(lm, instances[:NUM_WARM_UP])
        started = time.perf_counter()
        predictions = ours(instances)
        between = time.perf_counter()
        found = log_likelihoods(lm, instances)
        seconds, peer_seconds = between - started, time.perf_counter() - between
        difference, num_flips = agreement(predictions, found)
        print(
            f"{num_shots:5}  {len(instances):9}  {sum(map(len, found)):13}  {seconds:6.2f} s  {peer_seconds:7.2f} s  "
            f"{peer_seconds / seconds:5.1f} x  {difference:13.0e} nats  {num_flips}",
            flush=True,
        )
        is_same &= difference < MOST_DIFFERENCE and num_flips == 0
    if not is_same:
        sys.exit(1)


if __name__ == "__main__":
    run(main, Args)
