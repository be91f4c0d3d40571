"""The gain by fine-tuning against size and tokens: a curve over tokens for each family, coloured by its parameters."""

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import takewhile
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.axis import short_step
from analysis.figures.panels import Curve, Grid, Panel, fine_tuned_changes, in_rows, metrics_of
from analysis.figures.replicate_curves import over
from analysis.figures.style import BASE_COLOUR, MARKERS, Style
from analysis.figures.weight_grids import in_sequence
from analysis.tables.columns import METRIC_LABELS
from analysis.tables.frames import Tables, groups, is_empty, select, where
from analysis.tables.intervals import Z_95
from analysis.tables.replicates import FEWEST_REPLICATES

SIZE_IN_A_NAME = re.compile(r"\d+(\.\d+)?[kmbt]", re.IGNORECASE)
UNKNOWN = "size unknown"


def has_several_sizes(tables: Tables) -> bool:
    """Whether models of two sizes or more were fine-tuned and evaluated on their own task."""
    families = set(fine_tuned_changes(tables, "in-domain")["family"])
    return len({size for family, size in sizes_of(tables).items() if family in families}) > 1


def sizes_of(tables: Tables) -> dict[str, int]:
    """Family -> number of parameters, where it is known."""
    known = tables.scores[["family", "parameters"]].dropna()
    return {family: int(size) for family, size in known.itertuples(index=False, name=None)}


def gain_by_size(tables: Tables) -> Grid:
    """Change by fine-tuning on the own task over tokens: a curve for each family, a column for each task."""
    changes = with_tokens(tables, fine_tuned_changes(tables, "in-domain")) if has_several_sizes(tables) else None
    if changes is None or changes.empty:
        return [[Panel("Gain against size and tokens", "")]]
    sizes = sizes_of(tables)
    families = sorted(set(changes["family"]), key=lambda name: (sizes.get(name, np.inf), name))
    labels, styles = labels_of(families, sizes), styles_of(families, sizes)
    shared = shared_name(families)
    columns = []
    for (setting, train_set), rows in groups(changes, "setting", "train_set"):
        column = []
        for metric in metrics_of(rows):
            curves = [
                curve_of(labels[family], styles[family], series, of_family)
                for family in families
                for of_family in [select(rows, family=family, metric=metric)]
                for series in sorted(set(of_family["series"]))
            ]
            title, label = f"{setting}\nfine-tuned on {train_set}", f"change of {METRIC_LABELS[metric]}"
            note = f"Models: {'…'.join(shared)}" if any(shared) else ""
            x_label = "pre-training tokens"
            column.append(Panel(title, label, curves, is_change=True, x_label=x_label, is_log=True, note=note))
        columns.append(column)
    return in_rows(columns, "")


def with_tokens(tables: Tables, changes: pd.DataFrame) -> pd.DataFrame:
    """The changes at checkpoints whose tokens are known and more than none, by tokens."""
    known = tables.scores[["family", "checkpoint", "tokens"]].dropna().drop_duplicates()
    both = changes.merge(known, on=["family", "checkpoint"])
    return where(both, both["tokens"] > 0).sort_values("tokens", kind="stable")


def curve_of(label: str, style: Style, series: str, rows: pd.DataFrame) -> Curve:
    """One series. With too few replicates for an interval over them, it is over the items of one of them."""
    own = select(rows, series=series)
    recipe = " ".join(part for part in series.split() if "=" in part)
    few = np.asarray((own["replicates"] > 1) & (own["replicates"] < FEWEST_REPLICATES), dtype=bool)
    half = Z_95 * own["item_error"]
    own = own.assign(
        ci_low=own["ci_low"].where(~few, own["difference"] - half),
        ci_high=own["ci_high"].where(~few, own["difference"] + half),
    )
    number, unit = own["replicates"].max(), own["unit"].iloc[0]
    measured = "" if is_empty(number) else over(unit, int(number))
    interval = f"items only: {int(number)} {unit}s" if few.any() else measured
    return Curve(f"{label} {recipe}".strip(), style, own, "difference", "tokens", interval=interval)


def labels_of(families: Collection[str], sizes: Mapping[str, int]) -> dict[str, str]:
    """The size and what tells a family from the others: `150M` where that is a size, else `1.01B, deduped`."""
    head, tail = shared_name(families)
    labels = {}
    for family in families:
        own = family[len(head) : len(family) - len(tail)]
        size = short_step(str(sizes[family])) if family in sizes else UNKNOWN
        labels[family] = own.upper() if SIZE_IN_A_NAME.fullmatch(own) else ", ".join(filter(None, (size, own)))
    return labels


def shared_name(families: Collection[str]) -> tuple[str, str]:
    """Beginning and end, of whole words, that the names of several families have in common."""
    parts = [re.split(r"([-_ ])", family) for family in families]
    if len(parts) < 2:
        return "", ""
    head = common_part([words[:-1] for words in parts])
    tail = common_part([words[len(head) :][:0:-1] for words in parts])
    return "".join(head), "".join(tail[::-1])


def common_part(lists: Sequence[Sequence[str]]) -> list[str]:
    """What all lists begin with."""
    return [at[0] for at in takewhile(lambda at: len(set(at)) == 1, zip(*lists, strict=False))]


def styles_of(families: Collection[str], sizes: Mapping[str, int]) -> dict[str, Style]:
    """From dark to light by size; dashed for further families of a size, black where the size is unknown."""
    shades = in_sequence(str(size) for size in sorted({sizes[name] for name in families if name in sizes}))
    styles, seen = {}, set[Any]()
    for number, family in enumerate(families):
        size = sizes.get(family)
        colour = BASE_COLOUR if size is None else shades[str(size)].colour
        styles[family] = Style(colour, MARKERS[number % len(MARKERS)], "--" if size in seen else "-")
        seen.add(size)
    return styles
