"""Checks along a family's pre-training: shared tensors, norms off their trend, held-out loss that rises."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from open_instruct.checkpoints.families import Checkpoint
from open_instruct.checkpoints.measurement import group_norms

LARGEST_JUMP = 0.02
"""Share of a norm by which it may leave the line between its neighbours, however smooth the others are."""


TIMES_MEDIAN = 6.0
"""How many times the family's usual departure from that line is flagged."""


STANDARD_ERRORS = 3.0
"""How clear a rise of the loss must be, over documents, to be flagged."""


@dataclass(frozen=True)
class Flag:
    step: int | None
    what: str
    reason: str


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
