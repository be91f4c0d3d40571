"""Distance between the weights of fine-tuned models and of their base models, layer by layer, and the update's rank.

Reads   fine-tuned models, and the base model that each one's sidecar names.
Writes  output/weight_distances/{model_id}.json: for each layer the norm of the change, and of the base weights; for
        each matrix the rank, effective rank and stable rank of its change (eval/metrics/update_rank.py).

    python eval/weight_distance.py --model_name_or_path output/tiny_hf_ckpt600_socialiqa_2epoch_2e-3

A layer is a tensor's name up to its first number (`model.layers.0`), or the module where there is no number
(`model.embed_tokens`). Norms are Frobenius norms over all tensors of the layer.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.metrics.update_rank import update_rank
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.cli import option, run
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import write_json
from open_instruct.common.model_files import COPY_AGAIN, listed, refused, require_model, weight_files
from open_instruct.common.sidecars import content_hash, read_sidecar
from open_instruct.study.variants import identify

if TYPE_CHECKING:
    from torch import Tensor

ALL_LAYERS = "all"
LAYER = re.compile(r"(.*?\.\d+)\.|(.+)\.\w+")


@dataclass(frozen=True)
class Args:
    model_name_or_path: tuple[Path, ...]
    """Folders of fine-tuned models, in transformers format (adapters merged)."""
    base_model_name_or_path: Path | None = option("base_model", default=None)
    """Base model of all of them (default: for each, the one that its sidecar names)."""
    overwrite: bool = False
    """Measure models again that are done."""


def main(args: Args) -> None:
    pairs = [(folder, args.base_model_name_or_path or base_of(folder)) for folder in args.model_name_or_path]
    for folder, base in pairs:
        require_model(folder)
        require_model(base)
    for folder, base in pairs:
        identity = identify(folder)
        path = paths.weight_distance_file(identity["model_id"])
        artifact = Artifact(path, {}, {"model": folder, "base": base}, identity)
        if artifact.is_done(overwrite=args.overwrite):
            print(f"{path}: done before")
            continue
        with artifact.making():
            layers, matrices = changes(folder, base)
            about = {"identity": identity, "base": identify(base)}
            write_json(path, {**about, "layers": layers, "matrices": matrices})
        print(f"{path}: moved by {layers[-1]['distance'] / layers[-1]['base_norm']:.3%} of the norm", flush=True)


def base_of(folder: Path) -> Path:
    """The base model that the sidecar names.  Raises UserError where it names none, or that model has changed."""
    require_model(folder)
    meta = read_sidecar(folder)
    named = meta.get("input_paths", {}).get("model")
    if named is None or "model" not in meta.get("inputs", {}) or not (base := paths.absolute(named)).is_dir():
        raise UserError(f"{folder}: its sidecar names no existing base model; give it with --base_model_name_or_path")
    if content_hash(base) != meta["inputs"]["model"]:
        raise UserError(
            f"{base} has changed since {folder} was made from it; give the original with --base_model_name_or_path"
        )
    return base


def changes(folder: Path, base: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Norm of the change and base norm of each layer and of all layers together; rank of the change of each matrix.

    Both are in the model's order.  Raises UserError where the two models have different tensors, or not finite ones.
    """
    squares: dict[str, list[float]] = {}
    matrices = []
    for name, tuned, before in matched_tensors(folder, base):
        update = tuned.double() - before.double()
        if not update.isfinite().all():
            raise UserError(f"{name} of {folder} or {base} has values that are not finite; their distance is undefined")
        of_layer = squares.setdefault(layer_of(name), [0.0, 0.0, 0.0])
        of_layer[0] += float(update.square().sum())
        of_layer[1] += float(before.double().square().sum())
        of_layer[2] += before.numel()
        if update.ndim == 2 and tuned.is_floating_point() and before.numel():
            about = {"tensor": name, "layer": layer_of(name), "kind": kind_of(name), "shape": list(update.shape)}
            matrices.append(about | update_rank(update, tuned)._asdict())
    squares[ALL_LAYERS] = [sum(of_layer[i] for of_layer in squares.values()) for i in range(3)]
    layers = [
        {"layer": layer, "distance": moved**0.5, "base_norm": norm**0.5, "num_weights": int(count)}
        for layer, (moved, norm, count) in squares.items()
    ]
    return layers, matrices


def matched_tensors(folder: Path, base: Path) -> Iterator[tuple[str, "Tensor", "Tensor"]]:
    """(name, fine-tuned, base) of every tensor, as stored; only one pair is in memory."""
    from safetensors import safe_open

    files, base_files = weight_files(folder), weight_files(base)
    if files.keys() != base_files.keys():
        unmatched = listed(sorted(files.keys() ^ base_files.keys()))
        raise UserError(f"{folder} and {base} have different tensors: only one of them has {unmatched}")
    for name in sorted(files, key=model_order):
        with (
            refused(folder, f"{name} of {base.name} or of this model", COPY_AGAIN),
            safe_open(files[name], "pt") as tuned,
            safe_open(base_files[name], "pt") as before,
        ):
            both = tuned.get_tensor(name), before.get_tensor(name)
        if both[0].shape != both[1].shape:
            shapes = " and ".join(str(tuple(tensor.shape)) for tensor in both)
            raise UserError(f"{name} has shapes {shapes} in {folder} and {base}; expected models of one architecture")
        yield name, *both


def layer_of(name: str) -> str:
    match = LAYER.match(name)
    return next(part for part in match.groups() if part) if match else name


def kind_of(name: str) -> str:
    """What a tensor is in every layer: `self_attn.q_proj` of `model.layers.0.self_attn.q_proj.weight`."""
    inside = name.removesuffix(".weight").removeprefix(f"{layer_of(name)}.")
    return ".".join(part for part in inside.split(".") if not part.isdigit())


def model_order(name: str) -> tuple[int, int, str]:
    """Sort key: embeddings, then layers by number, then the rest."""
    number = re.search(r"\.(\d+)\.", name)
    return (1, int(number[1]), name) if number else (0 if "emb" in name or "wte" in name else 2, 0, name)


if __name__ == "__main__":
    run(main, Args)
