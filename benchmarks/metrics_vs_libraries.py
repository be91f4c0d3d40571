"""ROUGE-L of many summaries with its interval, here and by rouge_score and scipy.stats.bootstrap: the same numbers.

11,334 of them, as in XSum's test set: words of real sentences, 12 to 32 each, about half of each reference in
the same order in the output. 3,000 resamples, the same seed. Both of scipy's methods are asked, one run each. Seconds
are processor time, of which neither side uses more than one core: it hardly depends on what else the machine does.

    python benchmarks/metrics_vs_libraries.py          # ten seconds, 3 GB; ends with 1 where the numbers differ
"""

import random
import sys
import time
from dataclasses import dataclass
from typing import get_args

import numpy as np
from models import documents
from rouge_score.rouge_scorer import RougeScorer
from scipy import stats as scipy_stats

from eval.metrics.bootstrap import Method, bootstrap_mean
from eval.metrics.item_metrics import rouge_l
from open_instruct.common.cli import run

SCIPY_NAMES = {"percentile": "percentile", "bca": "BCa"}


@dataclass(frozen=True)
class Args:
    num_summaries: int = 11_334
    num_resamples: int = 3_000
    seed: int = 0


def main(args: Args) -> None:
    outputs, references = summaries(args.num_summaries, seed=args.seed)
    started = time.process_time()
    ours = rouge_l(outputs, references)
    seconds = time.process_time() - started
    started = time.process_time()
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    pairs = zip(outputs, references, strict=True)
    theirs = np.array([scorer.score(reference, output)["rougeL"].fmeasure for output, reference in pairs])
    peer_seconds = time.process_time() - started
    difference = float(np.abs(ours - theirs).max())
    show("ROUGE-L", seconds, peer_seconds, difference)
    is_same = difference < 1e-9

    for method in get_args(Method):
        started = time.process_time()
        interval = bootstrap_mean(ours, seed=args.seed, num_resamples=args.num_resamples, method=method)
        own = time.process_time() - started
        started = time.process_time()
        found = scipy_stats.bootstrap(
            (theirs,),
            np.mean,
            n_resamples=args.num_resamples,
            method=SCIPY_NAMES[method],
            rng=np.random.default_rng(args.seed),
        ).confidence_interval
        peer = time.process_time() - started
        difference = max(abs(interval.ci_low - found.low), abs(interval.ci_high - found.high))
        show(f"interval, {method}", own, peer, difference)
        show(f"ROUGE-L and interval, {method}", seconds + own, peer_seconds + peer, difference)
        is_same &= difference < 1e-9
    if not is_same:
        sys.exit(1)


def summaries(count: int, *, seed: int) -> tuple[list[str], list[str]]:
    """Outputs and references of 12 to 32 words."""
    rng = random.Random(seed)
    words = [word for row in documents("social_i_qa/none/validation") for word in row["context"].split()]
    references = [rng.choices(words, k=rng.randint(12, 32)) for _ in range(count)]
    outputs = [[word if rng.random() < 0.5 else rng.choice(words) for word in words_] for words_ in references]
    return [" ".join(output) for output in outputs], [" ".join(reference) for reference in references]


def show(what: str, seconds: float, peer_seconds: float, difference: float) -> None:
    ratio = f"{peer_seconds / seconds:5.1f} x"
    print(f"{what:34} {seconds:6.3f} s, libraries {peer_seconds:6.3f} s: {ratio}; within {difference:.0e}", flush=True)


if __name__ == "__main__":
    run(main, Args)
