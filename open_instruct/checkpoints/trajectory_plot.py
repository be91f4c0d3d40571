"""The picture of check_checkpoints.py: norms of the weights and held-out loss against the pre-training step."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from open_instruct.checkpoints.families import Checkpoint
from open_instruct.checkpoints.measurement import group_norms
from open_instruct.checkpoints.trajectory import Flag
from open_instruct.common.json_files import atomic_write


def draw(
    checkpoints: Sequence[Checkpoint], measured: Sequence[dict[str, Any]], flags: Sequence[Flag], path: Path
) -> None:
    """Checkpoints stand at even distances in the order of their steps; flagged ones are ringed."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    norms, losses = figure.subplots(1, 2)
    places = np.arange(len(checkpoints))
    place_of = {one.step: place for one, place in zip(checkpoints, places, strict=True)}
    groups = [group_norms(m) for m in measured]
    for kind in groups[0]:
        values = np.array([group.get(kind, np.nan) for group in groups])
        (line,) = norms.plot(places, values / np.nanmax(values), marker=".", label=kind.removesuffix(".weight"))
        for flag in flags:
            if flag.what == kind:
                height = values[place_of[flag.step]] / np.nanmax(values)
                norms.plot(place_of[flag.step], height, "o", ms=14, mfc="none", mec=line.get_color())
    norms.set(title="norm of the weights, by kind", ylabel="share of the largest")
    norms.legend(fontsize=6, loc="best")
    if measured[0]["bits_per_byte"]:
        means = np.array([np.mean(m["bits_per_byte"]) for m in measured])
        losses.plot(places, means, marker=".", color="black")
        for flag in flags:
            if flag.what == "held-out loss":
                losses.plot(place_of[flag.step], means[place_of[flag.step]], "o", ms=14, mfc="none", mec="firebrick")
        losses.set(title="held-out text", ylabel="bits per byte")
    else:
        losses.set_axis_off()
    for axes in (norms, losses):
        axes.set_xticks(places, [one.name.removeprefix("checkpoint-") for one in checkpoints], rotation=60, fontsize=7)
        axes.set_xlabel("pre-training step")
        axes.grid(alpha=0.3)
    with atomic_write(path, "wb") as file:
        figure.savefig(file, dpi=130, format="png")
