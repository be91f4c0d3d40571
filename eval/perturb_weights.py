"""Bits per byte of models under Gaussian noise of growing size on their weights.

Reads   models in transformers format, and an evaluation file (by default held-out pre-training text).
Writes  output/perturbations/{eval_set}[_{format}]_{model_id}.json: bits per byte of the gold completions, without noise
        and for each size and draw of the noise.

    python eval/perturb_weights.py --limit 100 \\
        --model_name_or_path output/tiny_tf_ckpts/checkpoint-200 output/tiny_tf_ckpts/checkpoint-600

Noise of size s adds independent normal values with standard deviation s * rms(W) to every weight tensor W: results do
not depend on the scale of the weights. All models of one architecture get the same draws.
Springer et al. (arXiv 2503.19206) find that longer pre-training makes models more sensitive to this noise.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.prediction import model_loading
from eval.prediction.prediction_spec import identify_evaluation, sample_items
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import write_json
from open_instruct.common.model_files import require_model
from open_instruct.study.variants import identify

# torch takes seconds to import, and is not needed where every output is done.
if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Args:
    model_name_or_path: tuple[Path, ...]
    """Folders of models, in transformers format."""
    input_file: Path | None = None
    """Evaluation file whose gold completions are scored (default: $data_dir/evaluation/heldout_text.jsonl)."""
    sizes: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4)
    """Standard deviations of the noise, relative to each tensor's root mean square."""
    num_draws: int = 3
    """Draws of the noise at each size."""
    limit: int | None = None
    """Score only this many items, the same for every model (default: all)."""
    seed: int = 0
    """Seed of the noise."""
    overwrite: bool = False
    """Measure models again that are done, or that were measured with other arguments."""


def main(args: Args) -> None:
    check_arguments(args)
    input_file = args.input_file or paths.evaluation_file("heldout_text")
    artifacts = [artifact_of(folder, input_file, args) for folder in args.model_name_or_path]
    for folder, artifact in zip(args.model_name_or_path, artifacts, strict=True):
        if artifact.is_done(overwrite=args.overwrite):
            print(f"{artifact.path}: done before")
            continue
        with artifact.making():
            model, tokenizer = model_loading.load(folder, folder, dtype="float32")
            measured = measure(model, tokenizer, sample_items(input_file, args.limit), args)
            write_json(artifact.path, {"identity": artifact.identity, **measured})
        print(f"{artifact.path}: {summary(measured)}", flush=True)


def check_arguments(args: Args) -> None:
    """Raises UserError with every problem."""
    problems = [] if args.model_name_or_path else ["--model_name_or_path names no model"]
    if not args.sizes or list(args.sizes) != sorted(set(args.sizes)):
        problems.append(f"--sizes are {args.sizes}; expected numbers, each larger than the one before")
    if problems:
        raise UserError("; ".join(problems))
    for folder in args.model_name_or_path:
        require_model(folder)


def artifact_of(folder: Path, input_file: Path, args: Args) -> Artifact:
    evaluation = identify_evaluation(input_file)
    identity = identify(folder) | evaluation
    path = paths.perturbation_file(evaluation["eval_set"], evaluation["format"], identity["model_id"])
    arguments = {"sizes": list(args.sizes), "num_draws": args.num_draws, "limit": args.limit, "seed": args.seed}
    return Artifact(path, arguments, {"model": folder, "evaluation": input_file}, identity)


def measure(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerFast", items: Sequence[Mapping[str, Any]], args: Args
) -> dict[str, Any]:
    """Bits per byte without noise, and under each draw of noise."""
    from eval.prediction.gold_loss import bits_per_byte, encode_golds

    texts = encode_golds(model, tokenizer, items)
    without_noise, with_noise = bits_per_byte(model, texts), []
    for size in args.sizes:
        for draw in range(args.num_draws):
            with perturbed(model, size, seed=args.seed + draw):
                with_noise.append({"size": size, "draw": draw, "bits_per_byte": bits_per_byte(model, texts)})
    return {"n": len(items), "bits_per_byte": without_noise, "noise": with_noise}


@contextmanager
def perturbed(model: "PreTrainedModel", size: float, *, seed: int) -> Iterator[None]:
    """Add noise to every weight tensor inside the block; afterwards the weights are restored exactly."""
    import torch

    # Drawn on the CPU, so that every device gets the same noise.
    generator = torch.Generator().manual_seed(seed)
    saved = []
    with torch.no_grad():
        for weights in model.parameters():
            saved.append(weights.detach().clone())
            noise = torch.randn(weights.shape, generator=generator).to(weights)
            weights.add_(noise * (size * weights.square().mean().sqrt()))
    try:
        yield
    finally:
        with torch.no_grad():
            for weights, before in zip(model.parameters(), saved, strict=True):
                weights.copy_(before)


def summary(measured: Mapping[str, Any]) -> str:
    by_size: dict[float, list[float]] = {}
    for row in measured["noise"]:
        by_size.setdefault(row["size"], []).append(row["bits_per_byte"] - measured["bits_per_byte"])
    changes = ", ".join(f"{sum(found) / len(found):+.4f} at {size:g}" for size, found in by_size.items())
    return f"{measured['bits_per_byte']:.4f} bits per byte; under noise {changes}"


if __name__ == "__main__":
    run(main, Args)
