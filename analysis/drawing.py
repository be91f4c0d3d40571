"""Drawing: curves over checkpoints with their intervals, panels in a grid, one legend; files with the same bytes.

The x axis is the pre-training step or the number of tokens, linear, logarithmic or with checkpoints at even distances.
"""

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from analysis.panels import BASE_COLOUR, Curve, Panel
from analysis.tidy import order_checkpoints
from open_instruct.records import UserError, atomic_write

SCALES = ("index", "linear", "log")
AXES = ("step", "tokens")
DODGE = 0.07
"""Between the curves of a panel, in parts of the distance of two checkpoints: their intervals stay apart."""
CHARACTER = 0.03
"""Width of a tick label's character, in parts of the axis."""
NOTE_WIDTH = 44
"""Characters of a note that fit into a panel."""
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "pdf.fonttype": 42,
}


def positions(checkpoints: Sequence[str], scale: str) -> dict[str, float]:
    """Where checkpoints stand on the axis, from 0 to their number - 1.

    `index`: evenly; `linear`: by step; `log`: by log(1 + step / smallest positive step), which has a place for step 0.
    `main` has no step and stands one mean distance behind the last.  Raises UserError for an unknown scale.
    """
    if scale not in SCALES:
        raise UserError(f"unknown scale {scale!r} of the step axis; expected {', '.join(SCALES)}")
    ordered = order_checkpoints(checkpoints)
    steps = [int(name) for name in ordered if name != "main"]
    if scale == "index" or len(steps) < 2:
        return {name: float(i) for i, name in enumerate(ordered)}
    smallest = min(step for step in steps if step > 0)
    raw = [math.log1p(step / smallest) if scale == "log" else float(step) for step in steps]
    places = [(x - raw[0]) / (raw[-1] - raw[0]) * (len(raw) - 1) for x in raw]
    return dict(zip(ordered, [*places, len(raw)], strict=False))


def short_step(name: str) -> str:
    """`738000` -> `738k`, `1500` -> `1.5k`, `3095412736` -> `3.1B`; others as they are."""
    if not name.isdigit() or int(name) < 1000:
        return name
    for size, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k")):
        if int(name) >= size:
            return f"{int(name) / size:.3g}{unit}"
    raise AssertionError


def draw(rows: Sequence[Sequence[Panel]], *, title: str, scale: str = "index", axis: str = "step") -> Figure:
    """A figure of panels, with one legend below them.

    Raises UserError for an unknown scale or axis.
    """
    if axis not in AXES:
        raise UserError(f"unknown axis {axis!r}; expected {', '.join(AXES)}")
    num_columns = max(len(row) for row in rows)
    with rc_context(STYLE):
        size = (max(5.0, 3.1 * num_columns + 0.4), 2.7 * len(rows) + 1.1)
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.12))
        grid = figure.subplots(len(rows), num_columns, squeeze=False)
        for axes_row, panels in zip(grid, rows, strict=True):
            for axes, panel in itertools.zip_longest(axes_row, panels):
                if panel is None:
                    axes.set_axis_off()
                else:
                    draw_panel(axes, panel, scale, axis)
        figure.suptitle(title, fontsize=11, fontweight="bold")
        add_legend(figure, [curve for row in rows for panel in row for curve in panel.curves])
        # Laid out once, not again for each file that is saved.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    return figure


def add_legend(figure: Figure, curves: Sequence[Curve]) -> None:
    """Base models first, then by alphabet; in as many columns as the longest label allows."""
    styles = {curve.label: curve.style for curve in curves if len(curve.rows.dropna(subset=[curve.value]))}
    labels = sorted(styles, key=lambda label: (styles[label].colour != BASE_COLOUR, label))
    if not labels:
        return
    handles = [Line2D([], [], color=s.colour, marker=s.marker, linestyle=s.line) for s in map(styles.get, labels) if s]
    inches = 0.8 + 0.075 * max(map(len, labels))
    columns = max(1, min(len(labels), int(figure.get_size_inches()[0] / inches)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def draw_panel(axes: Axes, panel: Panel, scale: str, axis: str) -> None:
    axes.set_title(panel.title)
    curves = [curve for curve in panel.curves if len(curve.rows.dropna(subset=[curve.value]))]
    if not curves:
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes, color="#555555")
        axes.set(xticks=[], yticks=[])
        return
    checkpoints = order_checkpoints([*panel.checkpoints, *(c for curve in curves for c in curve.rows["checkpoint"])])
    places = positions(checkpoints, scale)
    if panel.is_change:
        axes.axhline(0, color="#555555", linewidth=0.8)
    for number, curve in enumerate(curves):
        draw_curve(axes, curve, places, DODGE * (number - (len(curves) - 1) / 2))
    notes = [line for note in missing_notes(panel, checkpoints) for line in textwrap.wrap(note, NOTE_WIDTH)]
    if notes:
        # Above the data, so that it never covers a point.
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.09 * len(notes) * (high - low))
        axes.text(0.02, 0.98, "\n".join(notes), va="top", fontsize=7, transform=axes.transAxes, color="#B00000")
    width = max(places.values()) or 1.0
    axes.set_xlim(-0.06 * width - 0.15, 1.06 * width + 0.15)
    shown = readable_ticks(places, width)
    axes.set_xticks(list(places.values()), [short_step(c) if c in shown else "" for c in places])
    unit = {"step": "pre-training step", "tokens": "pre-training tokens"}[axis]
    axes.set(xlabel=unit + ("" if scale == "index" else f" ({scale})"), ylabel=panel.y_label)


def draw_curve(axes: Axes, curve: Curve, places: Mapping[str, float], shift: float) -> None:
    rows = curve.rows.set_index("checkpoint")
    # A missing checkpoint breaks the line: nothing is drawn where nothing was measured.
    rows = rows.reindex([name for name in places if name in rows.index or name != "main"])
    x = np.array([places[str(name)] for name in rows.index]) + shift
    y, low, high = (rows[name].to_numpy(float) for name in (curve.value, "ci_low", "ci_high"))
    errors = np.clip(np.stack([y - low, high - y]), 0, None)
    colour, marker, line = curve.style
    look = {"color": colour, "marker": marker, "linestyle": line, "markersize": 4, "linewidth": 1.4}
    axes.errorbar(x, y, yerr=errors, capsize=2, elinewidth=0.9, **look)


def missing_notes(panel: Panel, checkpoints: Sequence[str]) -> list[str]:
    notes = []
    for curve in panel.curves:
        found = set(curve.rows.dropna(subset=[curve.value])["checkpoint"])
        absent = [short_step(name) for name in checkpoints if name not in found]
        # A recipe that was run here and there ("=" in its name) is not missing elsewhere.
        if absent and "=" not in curve.label:
            notes.append(f"not measured: {curve.label} {', '.join(absent) if found else ''}".strip())
    return notes


def readable_ticks(places: Mapping[str, float], width: float) -> set[str]:
    """The ticks that can be labelled without touching: from the last backwards, the first one too."""
    shown: list[str] = []
    names = list(places)
    for name in [names[-1], names[0], *reversed(names[1:-1])]:
        if all(abs(places[name] - places[other]) >= width * room_for(name, other) for other in shown):
            shown.append(name)
    return set(shown)


def room_for(first: str, second: str) -> float:
    """Least distance of two tick labels, in parts of the axis."""
    return CHARACTER * (1 + (len(short_step(first)) + len(short_step(second))) / 2)


def save(figure: Figure, path: Path) -> list[Path]:
    """`path`.png and `path`.pdf; without dates, so that the same figure gives the same bytes."""
    written = []
    for ending, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None, "Producer": None})):
        target = path.with_name(f"{path.name}.{ending}")
        with atomic_write(target, "wb") as file:
            figure.savefig(file, format=ending, dpi=150, metadata=metadata)
        written.append(target)
    return written
