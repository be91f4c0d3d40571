"""Colour, marker and line of every curve: base models are black, a fine-tuned series looks the same in all figures.

Colours are those of Okabe and Ito, which readers with colour vision deficiency can distinguish.
"""

from collections.abc import Iterable, Sequence
from itertools import cycle
from typing import Literal, NamedTuple

import pandas as pd

from analysis.tables.frames import Tables, select

BASE_COLOUR = "#000000"


COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")


FORMAT_COLOURS = ("#332288", "#882255", "#999933", "#44AA99")
"""From Paul Tol's muted scheme: none of them is the colour of a series."""


MARKERS = ("s", "^", "D", "v", "P", "X", "<", ">", "*")


class Style(NamedTuple):
    colour: str
    marker: str
    line: Literal["-", "--"]


def style_of(names: Iterable[str], base: Iterable[str] = (), *, colours: Sequence[str] = COLOURS) -> dict[str, Style]:
    """Black for base models, colours and markers in order for the others, dashed after the last colour."""
    black = cycle(("o", *MARKERS))
    styles = {name: Style(BASE_COLOUR, next(black), "-") for name in base}
    for number, name in enumerate(name for name in dict.fromkeys(names) if name not in styles):
        line = "-" if number < len(colours) else "--"
        styles[name] = Style(colours[number % len(colours)], MARKERS[number % len(MARKERS)], line)
    return styles


def styles_of(tables: Tables) -> dict[str, Style]:
    """The style of each series, the same in all figures."""
    frames = (tables.performance, tables.suites)
    both = pd.concat([pd.DataFrame(frame[["series", "train_set"]]).drop_duplicates() for frame in frames])
    bases = sorted({str(name) for name in select(pd.DataFrame(both), train_set=None)["series"] if "=" not in name})
    # Varied recipes come last, so that the usual ones have solid lines.
    return style_of(sorted(set(both["series"]), key=lambda name: ("=" in name, name)), bases)
