"""Contrasts: which models are compared with each other, as rows of paired_differences.csv.

A cell is one model's result on one evaluation set in one format. A contrast is a weighted sum of cells, the same in
every replicate (pre-training run or fine-tuning seed). Effect, interval and test are computed in estimates.py.
A contrast with a missing cell has no value: its row says what is missing.

A slope is the least-squares slope over log2 of the pre-training tokens (of the steps where the tokens are not known),
which is a weighted sum of the checkpoints' cells. Step 0, the random initialisation, is in no slope and no mean.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analysis.tables.columns import ALL_CHECKPOINTS, Comparison
from analysis.tables.gathering import Key
from analysis.tables.replicates import SHARED

FEWEST_IN_A_SLOPE = 3


@dataclass(frozen=True)
class Contrast:
    comparison: str
    series: str
    checkpoint: str
    """The later one where two are compared; `all` where several are averaged."""
    reference: str
    terms: Mapping[Key, float]
    """Cell -> coefficient."""
    pairs: Sequence[tuple[Key, Key]] = ()
    """(fine-tuned, base) cells whose log-odds are compared, too."""
    replicates: tuple[str, ...] = (SHARED,)
    unit: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Family, train set, format and evaluation set of the row."""
    note: str = ""


@dataclass(frozen=True)
class Curve:
    """One series, and the checkpoints that are expected of it."""

    series: str
    family: str
    train_set: str | None
    base: str | None
    """Series of the base models; None where there are none."""
    checkpoints: tuple[str, ...]
    """Ascending."""
    doublings: Mapping[str, float]
    """Checkpoint -> log2 of its tokens or steps, of those after step 0 where they are known; NaN if not measured."""
    unit: str | None
    replicates: tuple[str, ...]

    @property
    def is_base(self) -> bool:
        return self.series == self.base

    @property
    def trained(self) -> tuple[str, ...]:
        """The checkpoints after step 0."""
        return tuple(name for name in self.checkpoints if name != "0")

    @property
    def without_tokens(self) -> str:
        """What to say of checkpoints that are in no slope; empty where all are."""
        unknown = [name for name in self.trained if name not in self.doublings]
        return f"without {', '.join(unknown)}, whose tokens are not known" if unknown else ""

    def cell(self, checkpoint: str, task_format: str, *, of_base: bool = False) -> Key:
        return (self.base or "") if of_base else self.series, checkpoint, task_format


def columns_of(curve: Curve, task_format: str, dataset: str) -> dict[str, Any]:
    return {"family": curve.family, "train_set": curve.train_set, "format": task_format, "eval dataset": dataset}


def linear_contrasts(curve: Curve, task_format: str, dataset: str) -> Iterator[Contrast]:
    """The contrasts of one series in one format."""
    about: dict[str, Any] = {"replicates": curve.replicates, "unit": curve.unit}
    about["columns"] = columns_of(curve, task_format, dataset)
    level = {name: {curve.cell(name, task_format): 1.0} for name in curve.checkpoints}
    last = curve.checkpoints[-1]
    if weights := slope_weights(curve.doublings):
        terms, note = weighted(level, weights), curve.without_tokens
        yield Contrast(Comparison.SLOPE, curve.series, last, "", terms, **about, note=note)
    if curve.is_base:
        yield from last_minus_earlier(Comparison.LAST_MINUS_EARLIER, curve, task_format, dataset)
    elif curve.base is not None:
        yield from changes(curve, task_format, about)


def last_minus_earlier(comparison: str, curve: Curve, task_format: str, dataset: str) -> list[Contrast]:
    """The last checkpoint minus each earlier one after step 0."""
    last, about = curve.checkpoints[-1], columns_of(curve, task_format, dataset)
    return [
        Contrast(
            comparison,
            curve.series,
            last,
            earlier,
            {curve.cell(last, task_format): 1.0, curve.cell(earlier, task_format): -1.0},
            replicates=curve.replicates,
            unit=curve.unit,
            columns=about,
        )
        for earlier in curve.trained[:-1]
    ]


def changes(curve: Curve, task_format: str, about: Mapping[str, Any]) -> Iterator[Contrast]:
    """Fine-tuned minus base: at each checkpoint, their mean, their slope."""
    base = curve.base or ""
    pairs = {
        name: (curve.cell(name, task_format), curve.cell(name, task_format, of_base=True)) for name in curve.checkpoints
    }
    change = change_terms(curve, task_format)
    for name in curve.checkpoints:
        yield Contrast(Comparison.CHANGE, curve.series, name, base, change[name], [pairs[name]], **about)
    if trained := curve.trained:
        mean = weighted(change, dict.fromkeys(trained, 1 / len(trained)))
        of_mean = [pairs[name] for name in trained]
        yield Contrast(Comparison.MEAN_CHANGE, curve.series, ALL_CHECKPOINTS, base, mean, of_mean, **about)
    if weights := slope_weights(curve.doublings):
        terms, note = weighted(change, weights), curve.without_tokens
        yield Contrast(Comparison.CHANGE_SLOPE, curve.series, curve.checkpoints[-1], base, terms, **about, note=note)


def plateau_contrast(curve: Curve, task_format: str, dataset: str, level: Sequence[str]) -> Contrast:
    """Slope of fine-tuned minus base over the checkpoints at which the base is level."""
    weights = slope_weights({name: curve.doublings[name] for name in level if name in curve.doublings})
    return Contrast(
        Comparison.PLATEAU_SLOPE,
        curve.series,
        curve.checkpoints[-1],
        curve.base or "",
        weighted(change_terms(curve, task_format), weights),
        replicates=curve.replicates,
        unit=curve.unit,
        columns=columns_of(curve, task_format, dataset),
    )


def change_terms(curve: Curve, task_format: str) -> dict[str, dict[Key, float]]:
    """Checkpoint -> terms of fine-tuned minus base."""
    return {
        name: {curve.cell(name, task_format): 1.0, curve.cell(name, task_format, of_base=True): -1.0}
        for name in curve.checkpoints
    }


def weighted(terms: Mapping[str, Mapping[Key, float]], weights: Mapping[str, float]) -> dict[Key, float]:
    """The weighted sum of each checkpoint's terms."""
    total: dict[Key, float] = {}
    for checkpoint, weight in weights.items():
        for key, coefficient in terms[checkpoint].items():
            total[key] = total.get(key, 0.0) + weight * coefficient
    return total


def slope_weights(doublings: Mapping[str, float]) -> dict[str, float]:
    """Checkpoint -> its coefficient in the least-squares slope over log2 of the tokens; empty for fewer than three."""
    if len(doublings) < FEWEST_IN_A_SLOPE:
        return {}
    x = np.array(list(doublings.values()))
    centred = x - x.mean()
    return dict(zip(doublings, (centred / np.square(centred).sum()).tolist(), strict=True))
