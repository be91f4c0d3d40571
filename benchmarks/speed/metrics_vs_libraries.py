"""ROUGE-L of many summaries with its bootstrap interval, by eval/metrics, rouge_score and scipy: the same numbers.

11,334 summaries, as in XSum's test set, of 12 to 32 real words; about half of each reference is in the output, in the
same order. 3,000 resamples with the same seed. Times are CPU seconds; neither side uses more than one core.

    python benchmarks/speed/metrics_vs_libraries.py       # ten seconds, 3 GB; exits with 1 if the numbers differ
"""

import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from scipy import stats as scipy_stats

from eval.metrics.bootstrap import Method, bootstrap_mean
from eval.metrics.item_metrics import rouge_l
from open_instruct.common.cli import run
from open_instruct.common.paths import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
from models import rows_of

SCIPY_NAMES = {"percentile": "percentile", "bca": "BCa"}
MAX_DIFFERENCE = 1e-9


@dataclass(frozen=True)
class Args:
    num_summaries: int = 11_334
    num_resamples: int = 3_000
    seed: int = 0


def main(args: Args) -> None:
    outputs, references = summaries(args.num_summaries, seed=args.seed)
    ours, seconds = timed(lambda: rouge_l(outputs, references))
    theirs, peer_seconds = timed(lambda: rouge_l_by_library(outputs, references))
    agreed = [report("ROUGE-L", seconds, peer_seconds, float(np.abs(ours - theirs).max()))]
    for method in get_args(Method):
        options: dict[str, Any] = {"seed": args.seed, "num_resamples": args.num_resamples, "method": method}
        interval, own = timed(lambda options=options: bootstrap_mean(ours, **options))
        expected, peer = timed(lambda options=options: interval_by_library(theirs, **options))
        difference = max(abs(interval.ci_low - expected.low), abs(interval.ci_high - expected.high))
        agreed.append(report(f"interval, {method}", own, peer, difference))
        report(f"ROUGE-L and interval, {method}", seconds + own, peer_seconds + peer, difference)
    if not all(agreed):
        sys.exit(1)


def summaries(count: int, *, seed: int) -> tuple[list[str], list[str]]:
    """Outputs and references."""
    rng = random.Random(seed)
    words = [word for row in rows_of("social_i_qa/none/validation") for word in row["context"].split()]
    references = [rng.choices(words, k=rng.randint(12, 32)) for _ in range(count)]
    outputs = [[word if rng.random() < 0.5 else rng.choice(words) for word in reference] for reference in references]
    return [" ".join(output) for output in outputs], [" ".join(reference) for reference in references]


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    started = time.process_time()
    result = function()
    return result, time.process_time() - started


def rouge_l_by_library(outputs: list[str], references: list[str]) -> np.ndarray:
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    pairs = zip(outputs, references, strict=True)
    return np.array([scorer.score(reference, output)["rougeL"].fmeasure for output, reference in pairs])


def interval_by_library(values: np.ndarray, *, seed: int, num_resamples: int, method: str) -> Any:
    options = {"n_resamples": num_resamples, "method": SCIPY_NAMES[method], "rng": np.random.default_rng(seed)}
    return scipy_stats.bootstrap((values,), np.mean, **options).confidence_interval


def report(name: str, seconds: float, peer_seconds: float, difference: float) -> bool:
    """Print a line.  -> whether both numbers are the same"""
    ratio = f"{peer_seconds / seconds:5.1f} x"
    print(f"{name:34} {seconds:6.3f} s, libraries {peer_seconds:6.3f} s: {ratio}; within {difference:.0e}", flush=True)
    return difference < MAX_DIFFERENCE


if __name__ == "__main__":
    run(main, Args)
