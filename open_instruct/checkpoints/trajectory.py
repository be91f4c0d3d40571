"""Checks over the checkpoints of one pre-training run: shared tensors, outlying norms, rising held-out loss.

`measured` are the results of measurement.measure, in the order of the checkpoints.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from open_instruct.checkpoints.families import Checkpoint

MIN_RESIDUAL = 0.02
"""Smallest relative residual of a norm that is flagged, however smooth the others are."""
TIMES_MEDIAN = 6.0
"""A flagged residual is more than this many times the median of its kind."""
STANDARD_ERRORS = 3.0
"""A flagged rise of the loss is more than this many standard errors over documents."""


@dataclass(frozen=True)
class Flag:
    step: int | None
    what: str
    reason: str


def find_shared_tensors(checkpoints: Sequence[Checkpoint], measured: Sequence[dict[str, Any]]) -> list[str]:
    """Every two checkpoints with the same tensor under the same name, and how many tensors they share.

    Constant tensors are ignored: the weights of every norm start as ones.
    """
    found = []
    for later, (checkpoint, own) in enumerate(zip(checkpoints, measured, strict=True)):
        tensors = {name: t["sha256"] for name, t in own["tensors"].items() if not t["is_constant"]}
        for other, its in zip(checkpoints[:later], measured[:later], strict=True):
            same = [name for name, content in tensors.items() if its["tensors"].get(name, {}).get("sha256") == content]
            if same:
                amount = "all tensors" if len(same) == len(tensors) else f"{len(same)} of {len(tensors)} tensors"
                found.append(f"{checkpoint.name} and {other.name} share {amount}, e.g. {same[0]}")
    return found


def norm_outliers(checkpoints: Sequence[Checkpoint], measured: Sequence[dict[str, Any]]) -> list[Flag]:
    """Norms that differ from the line between their neighbours by far more than is usual for their kind.

    Not judged: the first and the last checkpoint, which have one neighbour only, and fewer than five checkpoints.
    """
    pairs = [(one.step, group_norms(m)) for one, m in zip(checkpoints, measured, strict=True) if one.step is not None]
    if len(pairs) < 5:
        return []
    x = np.log1p([step for step, _ in pairs])
    flags = []
    for kind in pairs[0][1]:
        y = np.array([norms.get(kind, np.nan) for _, norms in pairs])
        residuals = relative_residuals(x, y)
        for i, residual in enumerate(residuals):
            # Without the point itself, since an outlier also raises the residuals of its neighbours.
            median = float(np.median(relative_residuals(np.delete(x, i + 1), np.delete(y, i + 1))))
            is_largest = residual == residuals[max(0, i - 1) : i + 2].max()
            if is_largest and residual > max(MIN_RESIDUAL, TIMES_MEDIAN * median):
                reason = f"norm {y[i + 1]:.4g}, {residual:.0%} off the line between its neighbours"
                flags.append(Flag(pairs[i + 1][0], kind, reason))
    return flags


def group_norms(measured: dict[str, Any]) -> dict[str, float]:
    """L2 norm of each kind of tensor, over all layers."""
    squares: dict[str, float] = {}
    for name, tensor in measured["tensors"].items():
        kind = re.sub(r"\.\d+\.", ".*.", name)
        squares[kind] = squares.get(kind, 0.0) + tensor["norm"] ** 2
    return {kind: value**0.5 for kind, value in squares.items()}


def relative_residuals(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Relative distance of each inner point from the line between its neighbours.  -> (points - 2,)"""
    line = y[:-2] + (y[2:] - y[:-2]) * (x[1:-1] - x[:-2]) / (x[2:] - x[:-2])
    return np.abs(y[1:-1] / line - 1)


def rising_losses(checkpoints: Sequence[Checkpoint], measured: Sequence[dict[str, Any]]) -> list[Flag]:
    """Checkpoints whose held-out loss is clearly higher than that of the checkpoint before."""
    flags = []
    rows = [(one, np.array(m["bits_per_byte"])) for one, m in zip(checkpoints, measured, strict=True)]
    for (before, earlier), (after, later) in itertools.pairwise(rows):
        if len(later) < 2:
            continue
        change = later - earlier  # paired by document
        standard_error = change.std(ddof=1) / len(change) ** 0.5
        if change.mean() > STANDARD_ERRORS * standard_error:
            reason = f"{earlier.mean():.3f} -> {later.mean():.3f} bits per byte since {before.name}"
            flags.append(Flag(after.step, "held-out loss", reason))
    return flags
