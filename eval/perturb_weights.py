"""How much worse a model gets when its weights are shaken: bits per byte under Gaussian noise of growing size.

Reads   models in transformers format, and an evaluation file (held-out pre-training text, unless told otherwise).
Writes  output/perturbations/{eval_set}[_{format}]_{model_id}.json: bits per byte of the gold completions, as the model
        is and for each size and draw of noise.

    python eval/perturb_weights.py --limit 100 \
        --model_name_or_path output/tiny_tf_ckpts/checkpoint-200 output/tiny_tf_ckpts/checkpoint-600

Noise of size s adds to every weight tensor W independent normal values of standard deviation s * rms(W), so what is
asked does not depend on the scale of the weights. The draws are the same for all models of one architecture, which are
thus compared under the same noise. Springer et al. (arXiv 2503.19206) find that longer pre-training makes this worse.
"""

import math
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

# torch takes seconds to import: where every record is done, it is not needed.
if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Args:
    model_name_or_path: tuple[Path, ...]
    """Folders of models, in transformers format."""
    input_file: Path | None = None
    """Evaluation file whose gold completions are scored (default: $data_dir/evaluation/heldout_text.jsonl)."""
    sizes: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4)
    """Standard deviation of the noise, in parts of each tensor's root mean square."""
    num_draws: int = 3
    """Draws of the noise at each size."""
    limit: int | None = None
    """Score only this many items, drawn once, the same for every model (default: all)."""
    seed: int = 0
    """Of the noise."""
    overwrite: bool = False


def main(args: Args) -> None:
    check_arguments(args)
    input_file = args.input_file or paths.evaluation_file("heldout_text")
    artifacts = [artifact_of(folder, input_file, args) for folder in args.model_name_or_path]
    for folder, artifact in zip(args.model_name_or_path, artifacts, strict=True):
        if artifact.is_done(overwrite=args.overwrite):
            print(f"{artifact.path}: done before")
            continue
        with artifact.making():
            model, tokenizer = model_loading.load(folder, folder, float16=False)
            measured = measure(model, tokenizer, sample_items(input_file, args.limit), args)
            write_json(artifact.path, {"identity": artifact.identity, **measured})
        print(f"{artifact.path}: {summary(measured)}", flush=True)


def check_arguments(args: Args) -> None:
    """Raises UserError that names every problem at once."""
    problems = [] if args.model_name_or_path else ["--model_name_or_path names no model"]
    if not args.sizes or min(args.sizes) <= 0 or list(args.sizes) != sorted(set(args.sizes)):
        problems.append(f"--sizes are {args.sizes}; expected positive numbers, each larger than the one before")
    if args.num_draws < 2:
        problems.append(f"--num_draws is {args.num_draws}; expected 2 at least: of one draw no error can be told")
    if problems:
        raise UserError("; ".join(problems))
    for folder in args.model_name_or_path:
        model_loading.check_folder(folder)


def artifact_of(folder: Path, input_file: Path, args: Args) -> Artifact:
    evaluation = identify_evaluation(input_file)
    identity = model_loading.identify(folder) | evaluation
    name = paths.perturbation_file(evaluation["eval_set"], evaluation["format"], identity["model_id"])
    arguments = {"sizes": list(args.sizes), "num_draws": args.num_draws, "limit": args.limit, "seed": args.seed}
    return Artifact(name, arguments, {"model": folder, "evaluation": input_file}, identity)


def measure(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerFast", items: Sequence[Mapping[str, Any]], args: Args
) -> dict[str, Any]:
    """Bits per byte as the model is, and under each draw of noise."""
    from eval.prediction import requests

    pairs = requests.texts(items, [], chat=False)
    questions = requests.encode_golds(tokenizer, pairs)
    requests.check_fit(
        [requests.size(question) for question in questions],
        max_length=model.config.max_position_embeddings,
        max_new_tokens=0,
        cut_left=False,
        name="the evaluation file",
    )
    num_bytes = sum(len(completion.encode()) for _, completion in pairs)

    def bits_per_byte() -> float:
        nats = sum(found["gold_logprob"] for found in requests.score_golds(model, questions))
        return -nats / math.log(2) / num_bytes

    before, found = bits_per_byte(), []
    for size in args.sizes:
        for draw in range(args.num_draws):
            with shaken(model, size, seed=args.seed + draw):
                found.append({"size": size, "draw": draw, "bits_per_byte": bits_per_byte()})
    return {"n": len(items), "bits_per_byte": before, "noise": found}


@contextmanager
def shaken(model: "PreTrainedModel", size: float, *, seed: int) -> Iterator[None]:
    """The model with noise on every tensor of its weights; afterwards the very same weights as before."""
    import torch

    # Drawn on the CPU, so that every device sees the same noise.
    source = torch.Generator().manual_seed(seed)
    kept = []
    with torch.no_grad():
        for weights in model.parameters():
            kept.append(weights.detach().clone())
            noise = torch.randn(weights.shape, generator=source).to(weights)
            weights.add_(noise * (size * weights.square().mean().sqrt()))
    try:
        yield
    finally:
        with torch.no_grad():
            for weights, before in zip(model.parameters(), kept, strict=True):
                weights.copy_(before)


def summary(measured: Mapping[str, Any]) -> str:
    by_size: dict[float, list[float]] = {}
    for row in measured["noise"]:
        by_size.setdefault(row["size"], []).append(row["bits_per_byte"] - measured["bits_per_byte"])
    changes = ", ".join(f"{sum(found) / len(found):+.4f} at {size:g}" for size, found in by_size.items())
    return f"{measured['bits_per_byte']:.4f} bits per byte; under noise {changes}"


if __name__ == "__main__":
    run(main, Args)
