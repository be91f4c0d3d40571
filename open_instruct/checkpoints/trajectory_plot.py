"""Figure of check_checkpoints.py: norms of the weights and held-out loss against the pre-training step."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from open_instruct.checkpoints.families import Checkpoint, step_name
from open_instruct.checkpoints.trajectory import Flag, group_norms
from open_instruct.common.json_files import atomic_write


def plot_trajectory(
    checkpoints: Sequence[Checkpoint], measured: Sequence[dict[str, Any]], flags: Sequence[Flag], path: Path
) -> None:
    """Draw the checkpoints at equal distances in the order of their steps, with a ring around flagged ones."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    norms, losses = figure.subplots(1, 2)
    position = {one.step: number for number, one in enumerate(checkpoints)}

    def draw(axes: Axes, what: str, values: np.ndarray, ring: str | None = None, **style: Any) -> None:
        (line,) = axes.plot(values, marker=".", **style)
        for x in (position[flag.step] for flag in flags if flag.what == what):
            axes.plot(x, values[x], "o", ms=14, mfc="none", mec=ring or line.get_color())

    groups = [group_norms(m) for m in measured]
    for kind in groups[0]:
        values = np.array([group.get(kind, np.nan) for group in groups])
        draw(norms, kind, values / np.nanmax(values), label=kind.removesuffix(".weight"))
    norms.set(title="norm of the weights, by kind", ylabel="share of the largest")
    norms.legend(fontsize=6, loc="best")
    if measured[0]["bits_per_byte"]:
        means = np.array([np.mean(m["bits_per_byte"]) for m in measured])
        draw(losses, "held-out loss", means, ring="firebrick", color="black")
        losses.set(title="held-out text", ylabel="bits per byte")
    else:
        losses.set_axis_off()
    for axes in (norms, losses):
        axes.set_xticks(range(len(checkpoints)), [step_name(one.step) for one in checkpoints], rotation=60, fontsize=7)
        axes.set_xlabel("pre-training step")
        axes.grid(alpha=0.3)
    with atomic_write(path, "wb") as file:
        figure.savefig(file, dpi=130, format="png")
