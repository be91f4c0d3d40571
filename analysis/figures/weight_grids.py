"""Grids of the weights themselves: sensitivity to weight noise, and weight change against gain, by layer."""

from collections.abc import Iterable

import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex

from analysis.figures.panels import Curve, Grid, Panel, checkpoints_of, wrapped
from analysis.figures.style import BASE_COLOUR, MARKERS, Style
from analysis.tables.columns import ALL_LAYERS, METRIC_LABELS, Comparison
from analysis.tables.frames import Tables, groups, in_order, related, select, usual

RELATIVE_CHANGE = "relative weight change"


def in_sequence(names: Iterable[str]) -> dict[str, Style]:
    """Styles of an ordered sequence, on a colour scale from dark to light; `all` is black."""
    ordered = [name for name in dict.fromkeys(names) if name != ALL_LAYERS]
    shades = [to_hex(colormaps["viridis"](0.9 * i / max(1, len(ordered) - 1))) for i in range(len(ordered))]
    styles = {n: Style(c, MARKERS[i % len(MARKERS)], "-") for i, (n, c) in enumerate(zip(ordered, shades, strict=True))}
    return styles | {ALL_LAYERS: Style(BASE_COLOUR, "o", "-")}


def noise_on_weights(tables: Tables) -> Grid:
    """Change of bits per byte under noise: a curve for each noise size, a panel for each series, base models first."""
    panels = []
    styles = in_sequence(f"{size:g}" for size in sorted(set(tables.noise["size"])))
    of_series = groups(tables.noise, "setting", "family", "series")
    for (setting, _, series), rows in sorted(of_series, key=lambda found: (is_tuned(found[1]), found[0])):
        curves = [
            Curve(f"noise size {size:g}", styles[f"{float(size):g}"], in_order(of_size), "difference")
            for (size,), of_size in groups(rows, "size")
        ]
        title = f"{setting}\n{f'fine-tuned on {series}' if is_tuned(rows) else 'base models'}"
        panels.append(Panel(title, "change of bits per byte", curves, checkpoints_of(tables, rows), is_change=True))
    return wrapped(panels, "Weight noise")


def is_tuned(rows: pd.DataFrame) -> bool:
    return bool(rows["train_set"].notna().any())


def weight_distance(tables: Tables) -> Grid:
    """Weight change over checkpoints, by layer; below it, the gain against the weight change."""
    styles = in_sequence(tables.distances["layer"])
    above, below = [], []
    gains = usual(select(tables.differences, comparison=Comparison.CHANGE, format="default"))
    for (family, series), rows in groups(tables.distances, "family", "series"):
        layers = [(layer, in_order(select(rows, layer=layer))) for layer in dict.fromkeys(rows["layer"])]
        curves = [Curve(layer_label(layer), styles[layer], group, "relative") for layer, group in layers]
        above.append(Panel(f"fine-tuned on {series}", RELATIVE_CHANGE, curves, checkpoints_of(tables, rows)))
        own = related(select(gains, series=series, family=family), "in-domain")
        for (setting, metric), gained in groups(own, "setting", "metric"):
            measured = gained.set_index("checkpoint")[["difference", "ci_low", "ci_high"]]
            curves = [
                Curve(
                    layer_label(layer), styles[layer], group.join(measured, on="checkpoint"), "difference", "relative"
                )
                for layer, group in layers
            ]
            title, label = f"{setting}\nfine-tuned on {series}", f"change of {METRIC_LABELS[metric]}"
            below.append(Panel(title, label, curves, is_change=True, x_label=RELATIVE_CHANGE))
    return [*wrapped(above, "Weight change"), *(wrapped(below, "") if below else [])]


def layer_label(layer: str) -> str:
    return "all weights" if layer == ALL_LAYERS else layer.removeprefix("model.")
