"""Contrasts: which models are compared with each other, as rows of paired_differences.csv.

A cell is one model's result on one evaluation set in one format. A linear contrast is a weighted sum of cells; a spread
over formats is the largest minus the smallest of their means. Effect and interval are computed in paired.py where the
values of each item are recorded, in unpaired.py where only means and standard errors are.
A contrast with a missing cell has no value: its row says what is missing.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.tables.columns import ALL_CHECKPOINTS, Comparison
from analysis.tables.frames import base_series, groups
from analysis.tables.gathering import Key

Spreads = Sequence[tuple[float, Sequence[Key]]]
"""Coefficient, and the cells whose means are spread."""


@dataclass(frozen=True)
class Contrast:
    comparison: str
    series: str
    checkpoint: str
    """The later one where two are compared; `all` where several are averaged."""
    reference: str
    terms: Mapping[Key, float] = field(default_factory=dict)
    """Cell -> coefficient."""
    spreads: Spreads = ()
    """In place of `terms`."""
    seeds: Sequence[str] = ()
    """Series of each seed, where `terms` is the mean over them."""
    columns: Mapping[str, str | None] = field(default_factory=dict)
    """Family, train set, format and evaluation set of the row."""

    @property
    def keys(self) -> list[Key]:
        return [*self.terms, *(key for _, cells in self.spreads for key in cells)]


Evaluator = Callable[[str, str, Sequence[Contrast]], list[dict[str, Any]]]
"""(setting, metric, contrasts) -> difference, std, ci_low, ci_high, p_value and n of each contrast, or `missing`."""


def compare_all(
    performance: pd.DataFrame, evaluate: Evaluator, checkpoints: Mapping[str, Sequence[str]]
) -> Iterator[dict[str, Any]]:
    """Every comparison of every series, setting and metric, as rows of paired_differences.csv.

    `checkpoints`: the expected ones of each family, ascending.
    """
    bases = {family: base_series(performance, family) for family in checkpoints}
    for (setting, metric), group in groups(performance, "setting", "metric"):
        contrasts = list(plan_contrasts(group, bases, checkpoints))
        results = evaluate(setting, metric, contrasts)
        effects = {key_of(c): result.get("difference", np.nan) for c, result in zip(contrasts, results, strict=True)}
        about = {name: group[name].iloc[0] for name in ("setting", "metric", "eval_set", "kind", "role")}
        for c, result in zip(contrasts, results, strict=True):
            if c.seeds and result.get("missing") is None:
                result = over_seeds(result, [effects[key_of(replace(c, series=series))] for series in c.seeds])
            names = {"comparison": c.comparison, "series": c.series, "checkpoint": c.checkpoint}
            yield {**names, "reference": c.reference or None, **about, **c.columns, "missing": None, **result}


def key_of(contrast: Contrast) -> tuple[str | None, ...]:
    return contrast.comparison, contrast.series, contrast.checkpoint, contrast.columns["format"]


def plan_contrasts(
    group: pd.DataFrame, bases: Mapping[str, str | None], checkpoints: Mapping[str, Sequence[str]]
) -> Iterator[Contrast]:
    """The contrasts of one setting and metric."""
    names = dict(zip(group["format"], group["eval dataset"], strict=True))
    formats = sorted(names, key=lambda name: (name != "default", name))
    for (series,), of_series in groups(group, "series"):
        family, train_set = of_series["family"].iloc[0], of_series["train_set"].iloc[0]
        if family is None or (train_set is None and series != bases[family]):
            continue
        base, models = bases[family], {"family": family, "train_set": train_set}
        measured = [name for name in formats if name in set(of_series["format"])]
        for task_format in measured:
            columns = models | {"format": task_format, "eval dataset": names[task_format]}
            for contrast in linear_contrasts(series, base, task_format, checkpoints[family]):
                yield replace(contrast, columns=columns)
        if len(measured) > 1:
            columns = models | {"format": " ".join(measured), "eval dataset": group["eval_set"].iloc[0]}
            for contrast in spread_contrasts(series, base, measured, checkpoints[family]):
                yield replace(contrast, columns=columns)
    for (family, train_set), several in seed_groups(group):
        models = {"family": family, "train_set": train_set}
        for task_format in formats:
            columns = models | {"format": task_format, "eval dataset": names[task_format]}
            for contrast in mean_over_seeds(several, bases[family], task_format, checkpoints[family]):
                yield replace(contrast, columns=columns)


def seed_groups(group: pd.DataFrame) -> Iterator[tuple[tuple[str, str], list[str]]]:
    """Series that differ only in their seed, in groups of at least two."""
    recipes: dict[tuple[Any, ...], dict[Any, str]] = {}
    columns = ["family", "train_set", "lr", "epochs", "adapter", "seed", "series"]
    for *recipe, seed, series in zip(*(group[name].tolist() for name in columns), strict=True):
        if recipe[1] is not None:
            recipes.setdefault(tuple(map(str, recipe)), {})[seed] = series
    for (family, train_set, *_), series_of in sorted(recipes.items()):
        if len(series_of) > 1:
            yield (family, train_set), sorted(series_of.values())


def mean_over_seeds(
    several: Sequence[str], base: str | None, task_format: str, checkpoints: Sequence[str]
) -> Iterator[Contrast]:
    of_each = [list(linear_contrasts(series, base, task_format, checkpoints)) for series in several]
    without_seed = [part for part in several[0].split() if not part.startswith("seed=")]
    name = f"{' '.join(without_seed)} ({len(several)} seeds)"
    for same in zip(*of_each, strict=True):
        mean: dict[Key, float] = {}
        for contrast in same:
            for key, coefficient in contrast.terms.items():
                mean[key] = mean.get(key, 0.0) + coefficient / len(several)
        yield replace(same[0], series=name, terms=mean, seeds=several)


def over_seeds(result: Mapping[str, Any], of_seeds: Sequence[float]) -> dict[str, Any]:
    """Interval and p-value with seeds as a random effect, so that they apply to further seeds too.

    The variance of the mean is the variance over items plus the variance between seeds / number of seeds. The latter
    includes some of the items' variance, so this is conservative. Student's t with seeds - 1 degrees of freedom.
    """
    between = float(np.var(of_seeds, ddof=1)) / len(of_seeds)
    error = float(np.sqrt(result["std"] ** 2 + between))
    half = float(stats.t.ppf(0.975, len(of_seeds) - 1)) * error
    mean = result["difference"]
    p_value = float(2 * stats.t.sf(abs(mean) / error, len(of_seeds) - 1)) if error > 0 else float(mean == 0)
    return {**result, "std": error, "ci_low": mean - half, "ci_high": mean + half, "p_value": p_value}


def linear_contrasts(series: str, base: str | None, task_format: str, checkpoints: Sequence[str]) -> Iterator[Contrast]:
    """The linear contrasts of one series in one format; `checkpoints` ascend."""
    first, last = checkpoints[0], checkpoints[-1]

    def cell(name: str, checkpoint: str) -> Key:
        return (name, checkpoint, task_format)

    if len(checkpoints) > 1:
        terms = {cell(series, last): 1.0, cell(series, first): -1.0}
        yield Contrast(Comparison.LAST_MINUS_FIRST, series, last, first, terms)
    if series == base:
        for earlier, later in itertools.pairwise(checkpoints):
            terms = {cell(series, later): 1.0, cell(series, earlier): -1.0}
            yield Contrast(Comparison.STEP_MINUS_PREVIOUS, series, later, earlier, terms)
        return
    if base is None:
        return
    for checkpoint in checkpoints:
        terms = {cell(series, checkpoint): 1.0, cell(base, checkpoint): -1.0}
        yield Contrast(Comparison.CHANGE, series, checkpoint, base, terms)
    share = 1 / len(checkpoints)
    terms = {cell(name, c): sign * share for c in checkpoints for name, sign in ((series, 1), (base, -1))}
    yield Contrast(Comparison.MEAN_CHANGE, series, ALL_CHECKPOINTS, base, terms)
    if len(checkpoints) > 1:
        terms = {cell(series, last): 1.0, cell(base, last): -1.0, cell(series, first): -1.0, cell(base, first): 1.0}
        yield Contrast(Comparison.CHANGE_GROWTH, series, last, base, terms)


def spread_contrasts(
    series: str, base: str | None, formats: Sequence[str], checkpoints: Sequence[str]
) -> Iterator[Contrast]:
    def spread(name: str, checkpoint: str, coefficient: float = 1.0) -> tuple[float, list[Key]]:
        return coefficient, [(name, checkpoint, task_format) for task_format in formats]

    for checkpoint in checkpoints:
        yield Contrast(Comparison.SPREAD, series, checkpoint, "", spreads=[spread(series, checkpoint)])
    if len(checkpoints) > 1:
        first, last = checkpoints[0], checkpoints[-1]
        yield Contrast(
            Comparison.SPREAD_GROWTH, series, last, first, spreads=[spread(series, last), spread(series, first, -1.0)]
        )
    if base is not None and series != base:
        share = 1 / len(checkpoints)
        pairs = [spread(name, c, sign * share) for c in checkpoints for name, sign in ((series, 1), (base, -1))]
        yield Contrast(Comparison.MEAN_SPREAD_CHANGE, series, ALL_CHECKPOINTS, base, spreads=pairs)


def absent_cells(keys: Sequence[Key], cells: Mapping[Key, Any]) -> str | None:
    absent = [key for key in keys if key not in cells]
    return "missing: " + "; ".join(" ".join(key) for key in dict.fromkeys(absent)) if absent else None
