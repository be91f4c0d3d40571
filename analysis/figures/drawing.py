"""Drawing: curves over checkpoints with their intervals, panels in a grid, one legend; files with the same bytes.

The x axis is the pre-training step or the number of tokens, linear, logarithmic or with checkpoints at even distances.
"""

import itertools
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from analysis.figures.panels import BASE_COLOUR, Curve, Panel
from analysis.tables.frames import order_checkpoints
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import atomic_write

SCALES = ("index", "linear", "log")
AXES = ("step", "tokens")
DODGE = 0.07
"""Between the curves of a panel, in parts of the distance of two checkpoints: their intervals stay apart."""
CHARACTER = 0.03
"""Width of a tick label's character, in parts of the axis."""
TURN = 40
"""Degrees by which tick labels are turned where they would touch."""
TURNED_LINE = 0.1
"""Width of a turned label, in parts of the axis."""
PANEL_INCHES, LEGEND_LINE, LEVEL_AXIS, TURNED_AXIS = 3.1, 0.18, 0.42, 0.62
"""Inches: width of a panel, height of a line of its legend, room below its axis (labels level, turned)."""
NOTE_WIDTH = 42
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
        legends = sum(max((legend_lines(panel) for panel in row), default=0) for row in rows)
        size = (max(5.0, PANEL_INCHES * num_columns + 0.4), 2.7 * len(rows) + 1.1 + LEGEND_LINE * legends)
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.12))
        grid = figure.subplots(len(rows), num_columns, squeeze=False)
        for axes_row, panels in zip(grid, rows, strict=True):
            for axes, panel in itertools.zip_longest(axes_row, panels):
                if panel is None:
                    axes.set_axis_off()
                else:
                    draw_panel(axes, panel, scale, axis)
        figure.suptitle(title, fontsize=11, fontweight="bold")
        add_legend(figure, [curve for row in rows for panel in row for curve in panel.curves if not panel.own_legend])
        # Laid out once, not again for each file that is saved.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    return figure


def add_legend(figure: Figure, curves: Sequence[Curve]) -> None:
    """In as many columns as the longest label allows."""
    handles, labels = legend_of(curves)
    if labels:
        columns = columns_for(labels, figure.get_size_inches()[0])
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def legend_of(curves: Sequence[Curve]) -> tuple[list[Line2D], list[str]]:
    """Base models first, then by alphabet, numbers by their size."""
    styles = {curve.label: curve.style for curve in curves if len(curve.rows.dropna(subset=[curve.value]))}

    def place(label: str) -> tuple[bool, list[float | str]]:
        parts = re.split(r"(\d+(?:\.\d+)?)", label)
        return styles[label].colour != BASE_COLOUR, [float(p) if i % 2 else p for i, p in enumerate(parts)]

    labels = sorted(styles, key=place)
    looks = [styles[label] for label in labels]
    return [Line2D([], [], color=s.colour, marker=s.marker, linestyle=s.line, markersize=5) for s in looks], labels


def columns_for(labels: Sequence[str], inches: float) -> int:
    """As many as the longest label allows."""
    return max(1, min(len(labels), int(inches / (0.8 + 0.075 * max(map(len, labels))))))


def draw_panel(axes: Axes, panel: Panel, scale: str, axis: str) -> None:
    axes.set_title(panel.title)
    curves = [curve for curve in panel.curves if len(curve.rows.dropna(subset=[curve.value]))]
    if not curves:
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes, color="#555555")
        axes.set(xticks=[], yticks=[])
        return
    if panel.x_label:
        draw_against(axes, panel, curves)
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
    is_turned = len(readable_ticks(places, width)) < len(places)
    shown = readable_ticks(places, width, is_turned=is_turned)
    axes.set_xticks(list(places.values()), [short_step(c) if c in shown else "" for c in places])
    if is_turned:
        axes.tick_params(axis="x", rotation=TURN)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    unit = {"step": "pre-training step", "tokens": "pre-training tokens"}[axis]
    axes.set(xlabel=unit + ("" if scale == "index" else f" ({scale})"), ylabel=panel.y_label)
    if panel.own_legend:
        handles, labels = legend_of(curves)
        columns = columns_for(labels, PANEL_INCHES)
        figure = axes.get_figure(root=True)
        assert figure is not None
        below = axes.transAxes + ScaledTranslation(
            0, -TURNED_AXIS if is_turned else -LEVEL_AXIS, figure.dpi_scale_trans
        )
        place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.45, 0), "bbox_transform": below}
        look: dict[str, Any] = {"frameon": False, "fontsize": 8, "columnspacing": 1, "handlelength": 1.6}
        axes.legend(handles, labels, ncols=columns, **place, **look)


def legend_lines(panel: Panel) -> int:
    """Of the panel's own legend."""
    labels = legend_of(panel.curves)[1] if panel.own_legend else []
    return math.ceil(len(labels) / columns_for(labels, PANEL_INCHES)) if labels else 0


def draw_curve(axes: Axes, curve: Curve, places: Mapping[str, float], shift: float) -> None:
    rows = curve.rows.set_index("checkpoint")
    # A missing checkpoint breaks the line: nothing is drawn where nothing was measured.
    rows = rows.reindex([name for name in places if name in rows.index or name != "main"])
    x = np.array([places[str(name)] for name in rows.index]) + shift
    draw_points(axes, curve, rows, x, line=curve.style.line)


def draw_against(axes: Axes, panel: Panel, curves: Sequence[Curve]) -> None:
    """A panel that is not over checkpoints: points without a line, since their order is not that of the axis."""
    if panel.is_change:
        axes.axhline(0, color="#555555", linewidth=0.8)
    for curve in curves:
        draw_points(axes, curve, curve.rows, curve.rows[curve.x].to_numpy(float), line="none")
    axes.set(xlabel=panel.x_label, ylabel=panel.y_label)


def draw_points(axes: Axes, curve: Curve, rows: pd.DataFrame, x: np.ndarray, *, line: str) -> None:
    y = rows[curve.value].to_numpy(float)
    errors = None
    if "ci_low" in rows:
        low, high = (rows[name].to_numpy(float) for name in ("ci_low", "ci_high"))
        errors = np.clip(np.stack([y - low, high - y]), 0, None)
    look: dict[str, Any] = {"color": curve.style.colour, "marker": curve.style.marker, "linestyle": line}
    axes.errorbar(x, y, yerr=errors, capsize=2, elinewidth=0.9, markersize=4, linewidth=1.4, **look)


def missing_notes(panel: Panel, checkpoints: Sequence[str]) -> list[str]:
    """What each curve lacks, or what it has, whichever is shorter."""
    notes = []
    for curve in panel.curves:
        measured = set(curve.rows.dropna(subset=[curve.value])["checkpoint"])
        found = [short_step(name) for name in checkpoints if name in measured]
        absent = [short_step(name) for name in checkpoints if name not in measured]
        # A recipe that was run here and there ("=" in its name) is not missing elsewhere.
        if not absent or "=" in curve.label:
            continue
        if 0 < len(found) < len(absent):
            notes.append(f"{curve.label} measured at {', '.join(found)} only")
        else:
            notes.append(f"not measured: {curve.label} {', '.join(absent) if found else ''}".strip())
    return notes


def readable_ticks(places: Mapping[str, float], width: float, *, is_turned: bool = False) -> set[str]:
    """The ticks that can be labelled without touching: from the last backwards, the first one too."""
    shown: list[str] = []
    names = list(places)
    for name in [names[-1], names[0], *reversed(names[1:-1])]:
        rooms = (TURNED_LINE if is_turned else room_for(name, other) for other in shown)
        if all(abs(places[name] - places[other]) >= width * room for other, room in zip(shown, rooms, strict=True)):
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
