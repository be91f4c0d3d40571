"""Bits per byte on the line between the weights of a base model and of one fine-tuned from it: is there a barrier?

Reads   fine-tuned models, the base model that each one's sidecar names, and an evaluation file (by default held-out
        pre-training text).
Writes  output/interpolations/{eval_set}[_{format}]_{model_id}.json: bits per byte of the gold completions at each point
        of the line, and the barrier.

    python eval/interpolate_weights.py --limit 100 \\
        --model_name_or_path output/tiny_hf_ckpt600_socialiqa_2epoch_2e-3

At alpha, every parameter is (1 - alpha) * base + alpha * fine-tuned; buffers stay those of the fine-tuned model.
The barrier is the most by which the loss at an alpha from 0 to 1 exceeds (1 - alpha) * loss(0) + alpha * loss(1)
(Entezari et al., arXiv 2110.06296). Where both ends have equal losses it is the instability of Frankle et al. (arXiv
1912.05671), whose models are linearly mode connected where it is about zero.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.prediction import model_loading
from eval.prediction.prediction_spec import identify_evaluation, sample_items
from eval.weight_distance import base_of
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.cli import option, run
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import write_json
from open_instruct.common.model_files import listed, require_model
from open_instruct.common.model_loading import load_model
from open_instruct.study.variants import identify

# torch takes seconds to import, and is not needed where every output is done.
if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

FLOAT_NOISE = 1e-6
"""By which the loss of the same weights in two models may differ, as a share of it."""


@dataclass(frozen=True)
class Args:
    model_name_or_path: tuple[Path, ...]
    """Folders of fine-tuned models, in transformers format (adapters merged)."""
    base_model_name_or_path: Path | None = option("base_model", default=None)
    """Base model of all of them (default: for each, the one that its sidecar names)."""
    input_file: Path | None = None
    """Evaluation file whose gold completions are scored (default: $data_dir/evaluation/heldout_text.jsonl)."""
    alphas: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    """Points on the line, 0 (base) and 1 (fine-tuned) among them; above 1 it is extrapolated."""
    limit: int | None = None
    """Score only this many items, the same for every model (default: all)."""
    overwrite: bool = False
    """Measure models again that are done, or that were measured with other arguments."""


def main(args: Args) -> None:
    check_arguments(args)
    input_file = args.input_file or paths.evaluation_file("heldout_text")
    lines = []
    for folder in args.model_name_or_path:
        base = args.base_model_name_or_path or base_of(folder)
        require_model(base)
        artifact = artifact_of(folder, base, input_file, args)
        if artifact.is_done(overwrite=args.overwrite):
            print(f"{artifact.path}: done before")
        else:
            require_same_parameters(folder, base)
            lines.append((folder, base, artifact))
    for folder, base, artifact in lines:
        with artifact.making():
            measured = measure(folder, base, sample_items(input_file, args.limit), args.alphas)
            about = {"identity": artifact.identity, "base": identify(base)}
            write_json(artifact.path, {**about, **measured})
        print(f"{artifact.path}: {summary(measured)}", flush=True)


def check_arguments(args: Args) -> None:
    """Raises UserError with every problem."""
    problems = [] if args.model_name_or_path else ["--model_name_or_path names no model"]
    if list(args.alphas) != sorted(set(args.alphas)) or not {0.0, 1.0} <= set(args.alphas):
        problems.append(f"--alphas are {args.alphas}; expected 0, 1 and others, each larger than the one before")
    if problems:
        raise UserError("; ".join(problems))
    for folder in args.model_name_or_path:
        require_model(folder)


def artifact_of(folder: Path, base: Path, input_file: Path, args: Args) -> Artifact:
    evaluation = identify_evaluation(input_file)
    identity = identify(folder) | evaluation
    path = paths.interpolation_file(evaluation["eval_set"], evaluation["format"], identity["model_id"])
    arguments = {"alphas": list(args.alphas), "limit": args.limit}
    return Artifact(path, arguments, {"model": folder, "base": base, "evaluation": input_file}, identity)


def require_same_parameters(folder: Path, base: Path) -> None:
    """Raises UserError, with their names, where two models have different parameters. No weight is read."""
    tuned, before = (
        {name: tuple(weights.shape) for name, weights in load_model(place, device_map="meta").named_parameters()}
        for place in (folder, base)
    )
    if unmatched := sorted(tuned.keys() ^ before.keys()):
        raise UserError(
            f"{folder} and {base} have different parameters: only one of them has {listed(unmatched)}; expected a base "
            "model and one fine-tuned from it, both with tied weights or both without: give the right base with "
            "--base_model_name_or_path"
        )
    for name, shape in tuned.items():
        if shape != before[name]:
            raise UserError(
                f"{name} has shapes {shape} and {before[name]} in {folder} and {base}; expected a base model and one "
                "fine-tuned from it without new tokens: give the right base with --base_model_name_or_path"
            )


def measure(folder: Path, base: Path, items: Sequence[Mapping[str, Any]], alphas: Sequence[float]) -> dict[str, Any]:
    """Bits per byte at each alpha, and the barrier.

    Raises UserError where the two models differ in more than their weights.
    """
    from eval.prediction.gold_loss import bits_per_byte, encode_golds

    model, tokenizer = model_loading.load(base, base, dtype="float32")
    base_texts = encode_golds(model, tokenizer, items)
    plain, start = bits_per_byte(model, base_texts), weights_on_cpu(model)
    model, tokenizer = model_loading.load(folder, folder, dtype="float32")
    texts, end = encode_golds(model, tokenizer, items), weights_on_cpu(model)
    if texts != base_texts:
        raise UserError(f"the tokenizers of {folder} and {base} make other tokens of the evaluation file; expected one")
    losses = {}
    for alpha in alphas:
        set_between(model, start, end, alpha)
        losses[alpha] = bits_per_byte(model, texts)
        if alpha == 0 and not math.isclose(losses[alpha], plain, rel_tol=FLOAT_NOISE):
            raise UserError(
                f"with the weights of {base} the model in {folder} has {losses[alpha]:.6f} bits per byte, and {base} "
                f"itself {plain:.6f}; expected models that differ in their parameters only: compare their config.json"
            )
        if not math.isfinite(losses[alpha]):
            raise UserError(f"{folder}: the loss at alpha {alpha:g} is not finite; give --alphas nearer to 0 and 1")
    points = [{"alpha": alpha, "bits_per_byte": loss} for alpha, loss in losses.items()]
    return {"n": len(items), "points": points, "barrier": barrier(losses)}


def weights_on_cpu(model: "PreTrainedModel") -> "dict[str, Tensor]":
    """A copy of every parameter; of tied ones, of the first."""
    return {name: weights.detach().to("cpu", copy=True) for name, weights in model.named_parameters()}


def set_between(
    model: "PreTrainedModel", start: "Mapping[str, Tensor]", end: "Mapping[str, Tensor]", alpha: float
) -> None:
    """Set the model's parameters to (1 - alpha) * start + alpha * end; exactly to one of these at 0 and 1."""
    import torch

    with torch.no_grad():
        for name, weights in model.named_parameters():
            weights.copy_(torch.lerp(start[name], end[name], alpha))


def barrier(losses: Mapping[float, float]) -> float:
    """The most by which a loss exceeds the straight line from loss(0) to loss(1), at an alpha from 0 to 1."""
    return max(loss - (1 - alpha) * losses[0.0] - alpha * losses[1.0] for alpha, loss in losses.items() if alpha <= 1)


def summary(measured: Mapping[str, Any]) -> str:
    losses = {row["alpha"]: row["bits_per_byte"] for row in measured["points"]}
    return f"{losses[0.0]:.4f} to {losses[1.0]:.4f} bits per byte, barrier {measured['barrier']:.4f}"


if __name__ == "__main__":
    run(main, Args)
