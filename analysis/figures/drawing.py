"""Draw panels of curves over checkpoints with matplotlib; save figures so that the same figure gives the same bytes.

The x axis is the pre-training step or the number of tokens, linear, logarithmic or with evenly spaced checkpoints.
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

from analysis.figures.axis import positions, readable_ticks, short_step, value_of
from analysis.figures.panels import Curve, Grid, Panel
from analysis.figures.style import BASE_COLOUR
from analysis.tables.frames import order_checkpoints
from open_instruct.checkpoints.family import MAIN
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import atomic_write

X_LABELS = {"step": "pre-training step", "tokens": "pre-training tokens"}
DODGE, LOG_DODGE = 0.07, 0.03
"""Offset between the curves of a panel, as a fraction of the distance of two checkpoints: intervals do not overlap.
On a logarithmic axis that of all of them, as a fraction of the axis."""
ROTATION = 40
"""Degrees by which tick labels are rotated where they would touch."""
PANEL_INCHES, LEGEND_LINE, HORIZONTAL_LABELS, ROTATED_LABELS = 3.1, 0.18, 0.42, 0.62
"""Inches: width of a panel, height of a line of its legend, height of tick labels (horizontal, rotated)."""
LINES_BELOW, SHARED_LINE = 3, 0.2
"""Lines of the shared legend and the note for which a figure has room; inches of each further one."""
TITLE_LINES, TITLE_WIDTH = 2, 46
"""Lines of a panel's title for which there is room, and their characters."""
NOTE_WIDTH = 42
"""Characters of a note that fit into a panel."""
CHARACTERS_AN_INCH = 18
"""Of the note below the panels."""
NOTE_SIZE, NOTE_COLOUR = 7.5, "#555555"
BAR_WIDTH, MOST_BAR_LABELS = 0.8, 24
"""Of all bars at one place, as a fraction of their distance; characters of tick labels that fit beside each other."""
PALE = 0.35
"""Opacity of the thin lines of single replicates."""
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "pdf.fonttype": 42,
}


def draw(rows: Grid, *, title: str, note: str = "", scale: str = "index", axis: str = "step") -> Figure:
    """Draw a grid of panels, below them one legend and the note.  Raises UserError for an unknown scale or axis."""
    if axis not in X_LABELS:
        raise UserError(f"unknown axis {axis!r}; expected {', '.join(X_LABELS)}")
    num_columns = max(len(row) for row in rows)
    with rc_context(STYLE):
        legends = sum(max((legend_lines(panel) for panel in row), default=0) for row in rows)
        legends += sum(max(0, *(len(title_lines(panel)) - TITLE_LINES for panel in row)) for row in rows)
        inches = max(5.0, PANEL_INCHES * num_columns + 0.4)
        shared = [curve for row in rows for panel in row for curve in panel.curves if not panel.own_legend]
        handles, labels = legend_of(shared)
        columns = columns_for(labels, inches) if labels else 1
        note_lines = textwrap.wrap(note, int(CHARACTERS_AN_INCH * inches))
        lines_below = max(0, len(note_lines) + math.ceil(len(labels) / columns) - LINES_BELOW)
        size = (inches, 2.7 * len(rows) + 1.1 + LEGEND_LINE * legends + SHARED_LINE * lines_below)
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.12))
        grid = figure.subplots(len(rows), num_columns, squeeze=False)
        for axes_row, panels in zip(grid, rows, strict=True):
            for axes, panel in itertools.zip_longest(axes_row, panels):
                if panel is None:
                    axes.set_axis_off()
                else:
                    draw_panel(axes, panel, scale, axis)
        figure.suptitle(title, fontsize=11, fontweight="bold")
        wrapped_note = "\n".join(note_lines)
        if labels:
            legend = figure.legend(
                handles, labels, title=wrapped_note, loc="outside lower center", ncols=columns, frameon=False
            )
            legend.get_title().set(fontsize=NOTE_SIZE, color=NOTE_COLOUR, multialignment="center")
        elif note:
            figure.supxlabel(wrapped_note, fontsize=NOTE_SIZE, color=NOTE_COLOUR)
        # Laid out once, not again for each file that is saved.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    return figure


def legend_of(curves: Sequence[Curve]) -> tuple[list[Line2D], list[str]]:
    """Handles and labels: base models first, then alphabetically, with numbers by value."""
    styles = {curve.label: curve.style for curve in with_points(curves)}

    def place(label: str) -> tuple[bool, list[float | str]]:
        parts = re.split(r"(\d+(?:\.\d+)?(?:[kMBT]\b)?)", label)
        return styles[label].colour != BASE_COLOUR, [value_of(p) if i % 2 else p for i, p in enumerate(parts)]

    labels = sorted(styles, key=place)
    looks = [styles[label] for label in labels]
    return [Line2D([], [], color=s.colour, marker=s.marker, linestyle=s.line, markersize=5) for s in looks], labels


def columns_for(labels: Sequence[str], inches: float) -> int:
    """Number of legend columns that the longest label allows."""
    return max(1, min(len(labels), int(inches / (0.8 + 0.075 * max(map(len, labels))))))


def draw_panel(axes: Axes, panel: Panel, scale: str, axis: str) -> None:
    axes.set_title("\n".join(title_lines(panel)))
    curves = with_points(panel.curves)
    if not curves:
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes, color="#555555")
        axes.set(xticks=[], yticks=[])
        return
    if panel.is_change:
        axes.axhline(0, color="#555555", linewidth=0.8)
    if panel.bars:
        draw_bars(axes, panel, curves)
        axes.set(xlabel=panel.x_label or X_LABELS[axis], ylabel=panel.y_label)
        return
    if panel.x_label:
        draw_against(axes, panel, curves)
        return
    checkpoints = order_checkpoints([*panel.checkpoints, *(c for curve in curves for c in curve.rows["checkpoint"])])
    places = positions(checkpoints, scale)
    for number, curve in enumerate(curves):
        draw_curve(axes, curve, places, DODGE * (number - (len(curves) - 1) / 2))
    add_notes(axes, panel, checkpoints)
    is_rotated = label_ticks(axes, places)
    axes.set(xlabel=X_LABELS[axis] + ("" if scale == "index" else f" ({scale})"), ylabel=panel.y_label)
    if panel.own_legend:
        add_own_legend(axes, curves, ROTATED_LABELS if is_rotated else HORIZONTAL_LABELS)


def draw_against(axes: Axes, panel: Panel, curves: Sequence[Curve]) -> None:
    """Curves against another quantity than checkpoints."""
    axes.set(xlabel=panel.x_label, ylabel=panel.y_label)
    if not panel.is_log:
        for curve in curves:
            # Points that are no path have no line: their order is not that of the axis.
            line = curve.style.line if panel.path else "none"
            draw_points(axes, curve, curve.rows, curve.rows[curve.x].to_numpy(float), line=line)
            for of_one in curve.each:
                draw_thin(axes, curve, of_one[curve.x], of_one[curve.value])
        return
    places = [np.log10(curve.rows[curve.x].to_numpy(float)) for curve in curves]
    shift = LOG_DODGE * np.ptp(np.concatenate(places)) / len(curves)
    for number, (curve, x) in enumerate(zip(curves, places, strict=True)):
        moved = 10 ** (x + shift * (number - (len(curves) - 1) / 2))
        draw_points(axes, curve, curve.rows, moved, line=curve.style.line)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: short_step(f"{value:.0f}"))
    axes.xaxis.set_minor_formatter("")
    add_notes(axes, panel, ())


def draw_bars(axes: Axes, panel: Panel, curves: Sequence[Curve]) -> None:
    """Bars beside each other at each place; hatched where a curve is hollow."""
    measured = [curve.rows.dropna(subset=[curve.value]) for curve in curves]
    rows_of = [{row["checkpoint"]: row for row in rows.to_dict("records")} for rows in measured]
    for place, name in enumerate(panel.bars):
        there = [(curve, rows[name]) for curve, rows in zip(curves, rows_of, strict=True) if name in rows]
        width = BAR_WIDTH / max(1, len(there))
        for number, (curve, row) in enumerate(there):
            y, low, high = (float(row[column]) for column in (curve.value, "ci_low", "ci_high"))
            look: dict[str, Any] = {"color": curve.style.colour}
            if name in curve.hollow:
                look = {"color": "white", "edgecolor": curve.style.colour, "hatch": "////"}
            x = place + width * (number - (len(there) - 1) / 2)
            axes.bar(x, y, 0.92 * width, **look)
            errors = np.clip([[y - low], [high - y]], 0, None)
            axes.errorbar(x, y, errors, capsize=2, elinewidth=0.9, ecolor=BASE_COLOUR, fmt="none")
    labels = [short_step(name) for name in panel.bars]
    axes.set_xticks(range(len(labels)), labels)
    if sum(map(len, labels)) > MOST_BAR_LABELS:
        rotate_ticks(axes)


def with_points(curves: Sequence[Curve]) -> list[Curve]:
    return [curve for curve in curves if len(curve.rows.dropna(subset=[curve.value]))]


def add_notes(axes: Axes, panel: Panel, checkpoints: Sequence[str]) -> None:
    """Name what was not measured or is degenerate, above the data so that no point is covered."""
    notes = [line for note in panel_notes(panel, checkpoints) for line in textwrap.wrap(note, NOTE_WIDTH)]
    if notes:
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.09 * len(notes) * (high - low))
        axes.text(0.02, 0.98, "\n".join(notes), va="top", fontsize=7, transform=axes.transAxes, color="#B00000")


def label_ticks(axes: Axes, places: Mapping[str, float]) -> bool:
    """Label the checkpoints; returns whether the labels are rotated, as they would touch otherwise."""
    width = max(places.values()) or 1.0
    axes.set_xlim(-0.06 * width - 0.15, 1.06 * width + 0.15)
    is_rotated = len(readable_ticks(places, width)) < len(places)
    shown = readable_ticks(places, width, is_rotated=is_rotated)
    axes.set_xticks(list(places.values()), [short_step(name) if name in shown else "" for name in places])
    if is_rotated:
        rotate_ticks(axes)
    return is_rotated


def rotate_ticks(axes: Axes) -> None:
    axes.tick_params(axis="x", rotation=ROTATION)
    for label in axes.get_xticklabels():
        label.set(ha="right", rotation_mode="anchor")


def add_own_legend(axes: Axes, curves: Sequence[Curve], inches_below: float) -> None:
    handles, labels = legend_of(curves)
    figure = axes.get_figure(root=True)
    assert figure is not None
    below = axes.transAxes + ScaledTranslation(0, -inches_below, figure.dpi_scale_trans)
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.45, 0), "bbox_transform": below}
    look: dict[str, Any] = {"frameon": False, "fontsize": 8, "columnspacing": 1, "handlelength": 1.6}
    axes.legend(handles, labels, ncols=columns_for(labels, PANEL_INCHES), **place, **look)


def title_lines(panel: Panel) -> list[str]:
    return [part for line in panel.title.split("\n") for part in textwrap.wrap(line, TITLE_WIDTH)]


def legend_lines(panel: Panel) -> int:
    """Number of lines of the panel's own legend."""
    labels = legend_of(panel.curves)[1] if panel.own_legend else []
    return math.ceil(len(labels) / columns_for(labels, PANEL_INCHES)) if labels else 0


def draw_curve(axes: Axes, curve: Curve, places: Mapping[str, float], shift: float) -> None:
    rows = curve.rows.set_index("checkpoint")
    # A missing checkpoint interrupts the line: nothing is drawn where nothing was measured.
    rows = rows.reindex([name for name in places if name in rows.index or (name != MAIN and curve.expects(name))])
    x = np.array([places[str(name)] for name in rows.index]) + shift
    draw_points(axes, curve, rows.rename_axis("checkpoint").reset_index(), x, line=curve.style.line)
    for of_one in curve.each:
        y = of_one.set_index("checkpoint")[curve.value].reindex(rows.index)
        draw_thin(axes, curve, x, y)


def draw_thin(axes: Axes, curve: Curve, x: Any, y: Any) -> None:
    """The line of a single replicate."""
    axes.plot(x, y, color=curve.style.colour, linewidth=0.6, alpha=PALE, linestyle=curve.style.line, zorder=1.5)


def draw_points(axes: Axes, curve: Curve, rows: pd.DataFrame, x: np.ndarray, *, line: str) -> None:
    y = rows[curve.value].to_numpy(float)
    errors = None
    if "ci_low" in rows:
        low, high = (rows[name].to_numpy(float) for name in ("ci_low", "ci_high"))
        errors = np.clip(np.stack([y - low, high - y]), 0, None)
    look: dict[str, Any] = {"color": curve.style.colour, "marker": curve.style.marker, "linestyle": line}
    axes.errorbar(x, y, yerr=errors, capsize=2, elinewidth=0.9, markersize=4, linewidth=1.4, **look)
    is_hollow = [str(name) in curve.hollow for name in rows["checkpoint"]]
    if any(is_hollow):
        look |= {"markerfacecolor": "white", "linestyle": "none"}
        axes.plot(x[is_hollow], y[is_hollow], markersize=4.5, zorder=3, **look)


def panel_notes(panel: Panel, checkpoints: Sequence[str]) -> list[str]:
    """The checkpoints at which each curve is hollow, and those that it lacks or has, whichever is shorter."""
    notes = []
    hollow = [
        f"{curve.label} {', '.join(short_step(name) for name in order_checkpoints(curve.hollow))}"
        for curve in panel.curves
        if curve.hollow
    ]
    if hollow:
        notes.append(f"one answer (hollow): {'; '.join(hollow)}")
    for curve in panel.curves:
        measured = set(curve.rows.dropna(subset=[curve.value])["checkpoint"])
        found = [short_step(name) for name in checkpoints if name in measured]
        absent = [short_step(name) for name in checkpoints if name not in measured and curve.expects(name)]
        # A varied recipe ("=" in its name) that was run at some checkpoints is not missing at the others.
        if not absent or "=" in curve.label:
            continue
        if 0 < len(found) < len(absent):
            notes.append(f"{curve.label} measured at {', '.join(found)} only")
        else:
            notes.append(f"not measured: {curve.label} {', '.join(absent) if found else ''}".strip())
    return notes


def save(figure: Figure, path: Path) -> list[Path]:
    """Write `path`.png and `path`.pdf, without dates, so that the same figure gives the same bytes."""
    written = []
    for ending, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None, "Producer": None})):
        target = path.with_name(f"{path.name}.{ending}")
        with atomic_write(target, "wb") as file:
            figure.savefig(file, format=ending, dpi=150, metadata=metadata)
        written.append(target)
    return written
