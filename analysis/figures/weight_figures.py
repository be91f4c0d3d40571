"""Figures of the weights themselves: sensitivity to noise, and distance moved against gain, layer by layer."""

from collections.abc import Iterable

import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex

from analysis.figures.panels import (
    BASE_COLOUR,
    MARKERS,
    Curve,
    Grid,
    Panel,
    Style,
    checkpoints_of,
    wrapped,
)
from analysis.inference import contrasts
from analysis.inference.weight_claims import ALL_LAYERS
from analysis.tables.frames import (
    METRIC_LABELS,
    Tables,
    groups,
    in_order,
    relation,
    select,
    usual,
    where,
)

NOISE, DISTANCE = "fig9_noise_on_weights", "fig10_weight_distance"


def in_sequence(names: Iterable[str]) -> dict[str, Style]:
    """One colour scale for things that have an order, dark to light; `all` is black."""
    ordered = [name for name in dict.fromkeys(names) if name != ALL_LAYERS]
    shades = [to_hex(colormaps["viridis"](0.9 * i / max(1, len(ordered) - 1))) for i in range(len(ordered))]
    styles = {n: Style(c, MARKERS[i % len(MARKERS)], "-") for i, (n, c) in enumerate(zip(ordered, shades, strict=True))}
    return styles | {ALL_LAYERS: Style(BASE_COLOUR, "o", "-")}


def noise_on_weights(tables: Tables) -> Grid:
    """What noise costs, a curve for each size, a panel for each series: base models first."""
    panels = []
    styles = in_sequence(f"{size:g}" for size in sorted(set(tables.noise["size"])))
    of_series = groups(tables.noise, "setting", "family", "series")
    for (setting, _, series), rows in sorted(of_series, key=lambda found: (is_tuned(found[1]), found[0])):
        curves = [
            Curve(f"noise of {size:g}", styles[f"{float(size):g}"], in_order(of_size), "difference")
            for (size,), of_size in groups(rows, "size")
        ]
        title = f"{setting}\n{f'fine-tuned on {series}' if is_tuned(rows) else 'base models'}"
        panels.append(Panel(title, "change of bits per byte", curves, checkpoints_of(tables, rows), is_change=True))
    return wrapped(panels, "Noise on the weights")


def is_tuned(rows: pd.DataFrame) -> bool:
    return bool(rows["train_set"].notna().any())


def weight_distance(tables: Tables) -> Grid:
    """Distance moved over checkpoints, by layer; below it, what was gained against it."""
    styles = in_sequence(tables.distances["layer"])
    above, below = [], []
    gains = usual(select(tables.differences, comparison=contrasts.FINE_TUNED_MINUS_BASE, format="default"))
    for (family, series), rows in groups(tables.distances, "family", "series"):
        layers = list(dict.fromkeys(rows["layer"]))
        of_layers = [(layer, in_order(select(rows, layer=layer))) for layer in layers]
        curves = [Curve(layer_label(layer), styles[layer], group, "relative") for layer, group in of_layers]
        above.append(Panel(f"fine-tuned on {series}", "distance / norm before", curves, checkpoints_of(tables, rows)))
        of_series = select(gains, series=series, family=family)
        is_own = [relation(*pair) == "in-domain" for pair in of_series[["role", "train_set"]].to_numpy()]
        for (setting, metric), gained in groups(where(of_series, is_own), "setting", "metric"):
            measured = gained.set_index("checkpoint")[["difference", "ci_low", "ci_high"]]
            against = [(layer, group.join(measured, on="checkpoint")) for layer, group in of_layers]
            curves = [
                Curve(layer_label(layer), styles[layer], both, "difference", "relative") for layer, both in against
            ]
            title = f"{setting}\nfine-tuned on {series}"
            label = f"change of {METRIC_LABELS[metric]}"
            below.append(Panel(title, label, curves, is_change=True, x_label="distance / norm before"))
    return [*wrapped(above, "Distance moved"), *(wrapped(below, "") if below else [])]


def layer_label(layer: str) -> str:
    return "all weights" if layer == ALL_LAYERS else layer.removeprefix("model.")
