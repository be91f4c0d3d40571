"""Grids of the weights themselves: sensitivity to noise; the change by fine-tuning, its rank, and the loss along it."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex

from analysis.figures.axis import short_step
from analysis.figures.panels import Curve, Grid, Panel, checkpoints_of, label_of, wrapped
from analysis.figures.style import BASE_COLOUR, FORMAT_COLOURS, MARKERS, Style, style_of, styles_of
from analysis.inference.estimates import from_replicates
from analysis.tables.columns import ALL_LAYERS, METRIC_LABELS, Comparison
from analysis.tables.frames import Tables, groups, in_order, order_checkpoints, related, select, usual, where
from analysis.tables.replicates import SHARED

RELATIVE_CHANGE = "relative weight change"
CHANGE_OF_BITS = "change of bits per byte"
ALPHA = "from base (0) to fine-tuned weights (1)"


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
            over_replicates(
                f"noise size {size:g}",
                styles[f"{float(size):g}"],
                of_size,
                "difference",
                of_one="draws of the noise: one run",
                of_several=", with fixed items and draws",
            )
            for (size,), of_size in groups(rows, "size")
        ]
        title = f"{setting}\n{f'fine-tuned on {series}' if is_tuned(rows) else 'base models'}"
        panels.append(Panel(title, CHANGE_OF_BITS, curves, checkpoints_of(tables, rows), is_change=True))
    return wrapped(panels, "Weight noise")


def over_replicates(
    label: str,
    style: Style,
    rows: pd.DataFrame,
    value: str,
    *,
    x: str = "checkpoint",
    of_one: str = "",
    of_several: str = "",
) -> Curve:
    """The mean at each `x` over replicates, with an interval over these, and the curve of each of them.

    of_one, of_several: what the interval is over with one replicate, and what is fixed with several.
    """
    named = rows.assign(replicate=rows["replicate"].fillna(SHARED))
    several = [in_order(mean_by(x, of_replicate, value)) for _, of_replicate in groups(named, "replicate")]
    if len(several) == 1:
        return Curve(label, style, several[0], value, x, interval=of_one)
    means = []
    for _, of_checkpoint in groups(pd.concat(several), x):
        values = of_checkpoint[value].dropna().to_numpy(float)
        if not len(values):
            continue
        (estimate,) = from_replicates(values[None], np.zeros(1))
        row = of_checkpoint.to_dict("records")[0] | {value: estimate["difference"]}
        interval = ("ci_low", "ci_high") if len(values) > 1 else ()
        means.append(row | dict.fromkeys(("ci_low", "ci_high")) | {name: estimate[name] for name in interval})
    columns = list(dict.fromkeys([*rows.columns, "ci_low", "ci_high"]))
    mean = in_order(pd.DataFrame(means, columns=columns)).astype({"ci_low": float, "ci_high": float})
    over = f"{len(several)} {rows['unit'].iloc[0]}s{of_several}"
    return Curve(label, style, mean, value, x, each=several, interval=over)


def mean_by(x: str, rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """A row for each `x`, with the mean of `value` over the matrices of a layer, or the seeds of a run."""
    means = {name: float(of_x[value].mean()) for (name,), of_x in groups(rows, x)}
    first = rows.drop_duplicates(x)
    return first.assign(**{value: [means[name] for name in first[x]]})


def is_tuned(rows: pd.DataFrame) -> bool:
    return bool(rows["train_set"].notna().any())


def weight_distance(tables: Tables) -> Grid:
    """Weight change over checkpoints, by layer; below it, the gain against the weight change."""
    styles = in_sequence(tables.distances["layer"])
    above, below = [], []
    gains = usual(select(tables.differences, comparison=Comparison.CHANGE, format="default"))
    for (family, series), rows in groups(tables.distances, "family", "series"):
        curves = [
            over_replicates(
                layer_label(layer), styles[layer], select(rows, layer=layer), "relative", of_several=" (weight change)"
            )
            for layer in dict.fromkeys(rows["layer"])
        ]
        above.append(Panel(f"fine-tuned on {series}", RELATIVE_CHANGE, curves, checkpoints_of(tables, rows)))
        own = related(select(gains, series=series, family=family), "in-domain")
        for (setting, metric), gained in groups(own, "setting", "metric"):
            effects = gained.set_index("checkpoint")[["difference", "ci_low", "ci_high", "unit", "replicates"]]
            against = []
            for curve in curves:
                both = curve.rows[["checkpoint", "series", "relative"]].join(effects, on="checkpoint")
                against.append(Curve(curve.label, curve.style, both, "difference", "relative"))
            title, label = f"{setting}\nfine-tuned on {series}", f"change of {METRIC_LABELS[metric]}"
            below.append(Panel(title, label, against, is_change=True, x_label=RELATIVE_CHANGE))
    return [*wrapped(above, "Weight change"), *(wrapped(below, "") if below else [])]


def layer_label(layer: str) -> str:
    return "all weights" if layer == ALL_LAYERS else layer.removeprefix("model.")


def update_rank(tables: Tables) -> Grid:
    """Effective rank of the update over checkpoints: the mean over the matrices of each layer, then of each kind."""
    changed = where(tables.ranks, tables.ranks["effective_rank"].notna())
    in_layers = where(changed, changed["layer"] != changed["kind"])
    by_layer = rank_panels(tables, changed, "layer", in_sequence(changed["layer"]))
    by_kind = rank_panels(tables, in_layers, "kind", style_of(in_layers["kind"], colours=FORMAT_COLOURS))
    return [*wrapped(by_layer, "Rank of the weight change"), *(wrapped(by_kind, "") if by_kind else [])]


def rank_panels(tables: Tables, ranks: pd.DataFrame, column: str, styles: Mapping[str, Style]) -> list[Panel]:
    panels = []
    for (_, series), rows in groups(ranks, "family", "series"):
        curves = [
            over_replicates(layer_label(name), styles[name], select(rows, **{column: name}), "effective_rank")
            for name in dict.fromkeys(rows[column])
        ]
        title = f"fine-tuned on {series}\nby {column}"
        panels.append(Panel(title, "effective rank of the update", curves, checkpoints_of(tables, rows)))
    return panels


def interpolation(tables: Tables) -> Grid:
    """Loss from base to fine-tuned weights, a curve for each checkpoint; below it, the barrier over checkpoints."""
    styles, of_series = in_sequence(order_checkpoints(tables.interpolation["checkpoint"])), styles_of(tables)
    along, barriers = [], []
    for (setting, _, series), rows in groups(tables.interpolation, "setting", "family", "series"):
        curves = [
            along_path(
                over_replicates(
                    f"checkpoint {short_step(name)}",
                    styles[name],
                    select(rows, checkpoint=name),
                    "difference",
                    x="alpha",
                    of_several=", with fixed items",
                )
            )
            for name in order_checkpoints(rows["checkpoint"])
        ]
        title = f"{setting}\nfine-tuned on {series}"
        points = [f"{alpha:g}" for alpha in sorted(set(rows["alpha"]))]
        along.append(Panel(title, CHANGE_OF_BITS, curves, is_change=True, x_label=ALPHA, path=points))
    for (setting, _), rows in groups(select(tables.interpolation, alpha=1.0), "setting", "family"):
        curves = [
            over_replicates(label_of(of_one, name), of_series[name], of_one, "barrier", of_several=", with fixed items")
            for (name,), of_one in groups(rows, "series")
        ]
        barriers.append(Panel(f"{setting}\nbarrier", "barrier in bits per byte", curves, checkpoints_of(tables, rows)))
    return [*wrapped(along, "Loss between base and fine-tuned weights"), *(wrapped(barriers, "") if barriers else [])]


def along_path(curve: Curve) -> Curve:
    """The curve with the names of its points in place of the checkpoint."""

    def renamed(rows: pd.DataFrame) -> pd.DataFrame:
        return rows.assign(checkpoint=[f"{alpha:g}" for alpha in rows["alpha"]])

    return replace(curve, rows=renamed(curve.rows), each=[renamed(rows) for rows in curve.each])
