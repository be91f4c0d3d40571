"""The checkpoint axis: positions of checkpoints, and which of their labels fit."""

import math
from collections.abc import Mapping, Sequence

from analysis.tables.frames import order_checkpoints
from open_instruct.checkpoints.family import MAIN
from open_instruct.common.errors import UserError

SCALES = ("index", "linear", "log")
CHARACTER = 0.03
"""Width of a tick label's character, as a fraction of the axis."""
ROTATED_LABEL = 0.1
"""Width of a rotated tick label, as a fraction of the axis."""
UNITS = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k"))


def positions(checkpoints: Sequence[str], scale: str) -> dict[str, float]:
    """Position of each checkpoint on the axis, from 0 to their number - 1.

    `index`: evenly spaced; `linear`: by step; `log`: by log(1 + step / smallest positive step), which includes step 0.
    `main` has no step and follows the last one by the mean distance.  Raises UserError for an unknown scale.
    """
    if scale not in SCALES:
        raise UserError(f"unknown scale {scale!r} of the step axis; expected {', '.join(SCALES)}")
    ordered = order_checkpoints(checkpoints)
    steps = [int(name) for name in ordered if name != MAIN]
    if scale == "index" or len(steps) < 2:
        return {name: float(i) for i, name in enumerate(ordered)}
    smallest = min(step for step in steps if step > 0)
    raw = [math.log1p(step / smallest) if scale == "log" else float(step) for step in steps]
    spaced = [(x - raw[0]) / (raw[-1] - raw[0]) * (len(raw) - 1) for x in raw]
    return dict(zip(ordered, [*spaced, len(raw)], strict=False))


def short_step(name: str) -> str:
    """`738000` -> `738k`, `1500` -> `1.5k`, `3095412736` -> `3.1B`; others unchanged."""
    if name.isdigit():
        for size, unit in UNITS:
            if int(name) >= size:
                return f"{int(name) / size:.3g}{unit}"
    return name


def value_of(text: str) -> float:
    """The number that `1.5`, `1.5k` or `3.1B` stands for."""
    size = {unit: size for size, unit in UNITS}.get(text[-1])
    return float(text) if size is None else float(text[:-1]) * size


def readable_ticks(places: Mapping[str, float], width: float, *, is_rotated: bool = False) -> set[str]:
    """The ticks whose labels do not touch: the last, the first, then from the last backwards."""
    shown: list[str] = []
    names = list(places)
    for name in [names[-1], names[0], *reversed(names[1:-1])]:
        gaps = (ROTATED_LABEL if is_rotated else smallest_gap(name, other) for other in shown)
        if all(abs(places[name] - places[other]) >= width * gap for other, gap in zip(shown, gaps, strict=True)):
            shown.append(name)
    return set(shown)


def smallest_gap(first: str, second: str) -> float:
    """Smallest distance of two tick labels that do not touch, as a fraction of the axis."""
    return CHARACTER * (1 + (len(short_step(first)) + len(short_step(second))) / 2)
