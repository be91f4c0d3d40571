"""Every comparison of a study, as rows of paired_differences.csv."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.inference.contrasts import (
    FEWEST_IN_A_SLOPE,
    Contrast,
    Curve,
    columns_of,
    linear_contrasts,
)
from analysis.inference.equivalence import MARGINS
from analysis.inference.estimates import Level, estimate_with_items, estimate_without_items
from analysis.inference.finding import format_p
from analysis.inference.format_variance import ALL_FORMATS, change_p_value, format_cells, series_p_value
from analysis.inference.gain_by_skill import Task, gain_by_skill, task_of
from analysis.inference.item_values import ItemValues
from analysis.inference.over_training import last_minus_best
from analysis.inference.plateau import plateau_slopes
from analysis.tables.chance import bottom_of, chance_of
from analysis.tables.columns import ALL_CHECKPOINTS, BITS, PRIMARY_METRICS, Comparison
from analysis.tables.frames import order_checkpoints, relation
from analysis.tables.gathering import Key, key_of
from analysis.tables.replicates import RUN, replicates_of

Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is expected of a study beside what was found."""

    checkpoints: Mapping[str, Sequence[str]]
    """Family -> names, ascending."""
    runs: Mapping[str, Collection[str | None]]
    margins: Mapping[str, float]
    """Metric -> largest difference that counts as none, in place of MARGINS."""


def compare_all(
    rows: Sequence[Row],
    cells: Mapping[tuple[str, str], ItemValues],
    plan: Plan,
) -> Iterator[Row]:
    """rows: of performance and of the suites' primary metrics."""
    curves = curves_of(rows, plan)
    margins = MARGINS | dict(plan.margins)
    tasks: dict[tuple[str, str], list[Task | str]] = {}
    plain = {(row["eval_set"], row["kind"]) for row in rows if row["setting"] == row["eval_set"]}
    for (setting, metric, kind), group in sorted(by_evaluation(rows).items()):
        items = cells.get((setting, metric))
        yield from compare_evaluation(group, curves, items, margins.get(metric))
        eval_set = group[0]["eval_set"]
        is_rare = setting != eval_set and (eval_set, kind) in plain  # the same task with another number of shots
        if items is not None and metric == PRIMARY_METRICS.get(kind) and kind != "text" and not is_rare:
            add_tasks(tasks, group, curves, items)
    yield from skill_rows(tasks)


def by_evaluation(rows: Sequence[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """(setting, metric, kind) -> its rows."""
    grouped: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        grouped.setdefault((row["setting"], row["metric"], row["kind"]), []).append(row)
    return grouped


def curves_of(rows: Sequence[Row], plan: Plan) -> dict[str, Curve]:
    """Every series of a family, by name."""
    replicates = replicates_of(rows, plan.runs)
    base_counts: dict[str, Counter[str]] = {}
    models: dict[str, tuple[str, str | None]] = {}
    places: dict[str, dict[str, tuple[int | None, int | None]]] = {}
    for row in rows:
        family = row["family"]
        if family is None:
            continue
        models[row["series"]] = family, row["train_set"]
        places.setdefault(family, {})[row["checkpoint"]] = row["step"], row["tokens"]
        if row["train_set"] is None:
            base_counts.setdefault(family, Counter())[row["series"]] += 1
    curves = {}
    for series, (family, train_set) in models.items():
        found = order_checkpoints([*places[family], *plan.checkpoints.get(family, ())])
        bases = base_counts.get(family)
        base = min(bases.items(), key=lambda found: (-found[1], found[0]))[0] if bases else None
        if train_set is None and series != base:
            continue
        unit, names = replicates[series]
        curves[series] = Curve(
            series, family, train_set, base, tuple(found), doublings_of(places[family], found), unit, names
        )
    return curves


def doublings_of(places: Mapping[str, tuple[int | None, int | None]], names: Sequence[str]) -> dict[str, float]:
    """Checkpoint -> log2 of its tokens, or of its steps where the tokens of one are not known; those after step 0.

    NaN where no model was measured: its cells are missing, and so is every slope.
    """
    trained = [name for name in names if name != "0"]
    with_tokens = [name for name in trained if name in places and places[name][1] is not None]
    position = 1 if len(with_tokens) >= FEWEST_IN_A_SLOPE else 0
    known = {name: places[name][position] if name in places else np.nan for name in trained}
    return {name: float(np.log2(value)) for name, value in known.items() if value}


def compare_evaluation(
    group: Sequence[Row], curves: Mapping[str, Curve], items: ItemValues | None, margin: float | None
) -> Iterator[Row]:
    """The comparisons of one setting and metric."""
    first = group[0]
    datasets = {row["format"]: row["eval dataset"] for row in group}
    formats = sorted(datasets, key=lambda name: (name != "default", name))
    about = {name: first[name] for name in ("setting", "metric", "eval_set", "kind", "role")}
    of_series: dict[str, set[str]] = {}
    for row in group:
        if row["series"] in curves:
            of_series.setdefault(row["series"], set()).add(row["format"])

    def estimate(contrasts: Sequence[Contrast]) -> list[Row]:
        if items is not None:
            return estimate_with_items(contrasts, items, first["metric"])
        return estimate_without_items(contrasts, levels, first["metric"], degenerate)

    levels, degenerate = ({}, {}) if items is not None else (levels_of(group), degenerate_of(group))
    contrasts = [
        contrast
        for series in sorted(of_series)
        for name in formats
        if name in of_series[series]
        for contrast in linear_contrasts(curves[series], name, datasets[name])
    ]
    results = estimate(contrasts)
    yield from (row_of(c, result, about) for c, result in zip(contrasts, results, strict=True))
    bottom = bottom_of(first["metric"], first["eval_set"], first["kind"])
    own = [curves[name] for name in sorted(of_series) if is_own_task(curves[name], first["role"])]
    for contrast, result in plateau_slopes(own, contrasts, results, estimate, margin, bottom):
        yield row_of(contrast, result, about)
    if items is None:
        return
    if len(formats) > 1 and first["kind"] != "text":
        yield from format_rows(formats, curves, sorted(of_series), items, about)
    for curve in own:
        contrast, result = last_minus_best(curve, formats[0], datasets[formats[0]], first["metric"], estimate)
        yield row_of(contrast, result, about)


def is_own_task(curve: Curve, role: str) -> bool:
    return curve.train_set is not None and relation(role, curve.train_set) == "in-domain"


def row_of(contrast: Contrast, result: Row, about: Row) -> Row:
    names = {"comparison": contrast.comparison, "series": contrast.series, "checkpoint": contrast.checkpoint}
    names |= {"reference": contrast.reference or None, "unit": contrast.unit, "note": contrast.note or None}
    return {**names, **about, **contrast.columns, "missing": None, **result}


def degenerate_of(group: Sequence[Row]) -> dict[Key, str]:
    """Models whose score says nothing about them -> why."""
    return {key_of(row): row["degenerate"] for row in group if row.get("degenerate")}


def levels_of(group: Sequence[Row]) -> dict[Key, dict[str, Level]]:
    """Level of every model and replicate, seeds of one run averaged; of a run that lacks a seed there is none."""
    several: dict[tuple[Key, str], list[Level]] = {}
    seeds: dict[tuple[Key, str], set[Any]] = {}
    expected: dict[tuple[str, str], set[Any]] = {}
    for row in group:
        key = key_of(row)
        seed = row.get("seed") if row["unit"] == RUN else None
        several.setdefault((key, row["replicate"]), []).append((row["Performance"], row["std"], row["n"]))
        seeds.setdefault((key, row["replicate"]), set()).add(seed)
        expected.setdefault((key[0], key[2]), set()).add(seed)
    levels: dict[Key, dict[str, Level]] = {}
    for (key, replicate), found in several.items():
        if seeds[key, replicate] != expected[key[0], key[2]]:
            continue
        means, errors, num_items = np.array(found, dtype=float).T
        error = float(np.sqrt(np.square(errors).mean()))
        levels.setdefault(key, {})[replicate] = float(means.mean()), error, float(num_items.min())
    return levels


def format_rows(
    formats: Sequence[str], curves: Mapping[str, Curve], series: Sequence[str], items: ItemValues, about: Row
) -> Iterator[Row]:
    """Variance between formats: of each model, its change by fine-tuning and its slope."""
    variances = ItemValues(format_cells(items, formats))
    if not variances.cells:
        return
    kept = {
        Comparison.MEAN_CHANGE: Comparison.FORMATS_MEAN_CHANGE,
        Comparison.SLOPE: Comparison.FORMATS_SLOPE,
    }
    contrasts: list[Contrast] = []
    p_values: dict[str, float | None] = {}
    for name in series:
        curve = curves[name]
        if not curve.is_base and not is_own_task(curve, about["role"]):
            continue
        columns = columns_of(curve, " ".join(formats), about["eval_set"])
        for checkpoint in curve.checkpoints:
            terms = {curve.cell(checkpoint, ALL_FORMATS): 1.0}
            contrasts.append(
                Contrast(Comparison.FORMATS, name, checkpoint, "", terms, (), curve.replicates, curve.unit, columns)
            )
        for contrast in linear_contrasts(curve, ALL_FORMATS, about["eval_set"]):
            if contrast.comparison in kept:
                renamed = replace(contrast, comparison=kept[contrast.comparison], columns=columns, pairs=())
                contrasts.append(renamed)
        keys = keys_of(curve, formats)
        p_values[name] = series_p_value(items, keys, curve.replicates) if keys else None
    for contrast, result in zip(contrasts, estimate_with_items(contrasts, variances, BITS), strict=True):
        if contrast.comparison in kept.values() and result.get("missing") is None:
            changed = contrast.comparison == Comparison.FORMATS_MEAN_CHANGE and result["difference"] < 0
            of = contrast.reference if changed else contrast.series
            p_permuted = p_values.get(of)
            if p_permuted is None:
                result = {"missing": f"missing: all formats of {of}"}
            else:
                result["p_value"] = max(result["p_value"], p_permuted)
                if contrast.comparison == Comparison.FORMATS_MEAN_CHANGE and len(contrast.replicates) > 1:
                    tuned, base = (
                        keys_of(curves[contrast.series], formats, of_base=is_base) for is_base in (False, True)
                    )
                    p_change = change_p_value(items, tuned, base, contrast.replicates)
                    result["p_value"] = max(result["p_value"], 1.0 if p_change is None else p_change)
                result["note"] = f"formats differ in {of} models with p {format_p(p_permuted)}, permuted within items"
        yield row_of(contrast, result, about)


def keys_of(curve: Curve, formats: Sequence[str], *, of_base: bool = False) -> dict[str, list[Key]]:
    """Checkpoint after step 0 -> key of each format."""
    return {c: [curve.cell(c, task_format, of_base=of_base) for task_format in formats] for c in curve.trained}


def add_tasks(
    tasks: dict[tuple[str, str], list[Task | str]],
    group: Sequence[Row],
    curves: Mapping[str, Curve],
    items: ItemValues,
) -> None:
    """Add the fine-tuned series of one evaluation to the tasks trained on, or to the suite tasks."""
    first = group[0]
    conditions = first["setting"].removeprefix(first["eval_set"])
    chance = chance_of(first["eval_set"], first["kind"])
    for series in sorted({row["series"] for row in group if row["format"] == "default"}):
        curve = curves.get(series)
        if curve is None or curve.base is None or curve.train_set is None:
            continue
        is_suite = first["kind"] == "suite"
        if not is_suite and not is_own_task(curve, first["role"]):
            continue
        name = first["setting"] if is_suite else series
        key = curve.family, (f"suite tasks, {series}" if is_suite else "tasks trained on") + conditions
        task = f"{name}: its score by chance is not known" if chance is None else None
        tasks.setdefault(key, []).append(task or task_of(items, curve, "default", name, chance or 0.0))


def skill_rows(tasks: Mapping[tuple[str, str], Sequence[Task | str]]) -> Iterator[Row]:
    names = Counter(name for _, name in tasks)
    for (family, name), found in sorted(tasks.items()):
        usable = [task for task in found if isinstance(task, Task)]
        left_out = [task for task in found if isinstance(task, str)]
        series = f"{name}, {family}" if names[name] > 1 else name
        about = {
            "series": series,
            "checkpoint": ALL_CHECKPOINTS,
            "reference": None,
            "family": family,
            "metric": "skill",
        }
        about |= dict.fromkeys(("eval dataset", "eval_set", "setting"), "all")
        about |= {"format": "default", "kind": "tasks", "role": "other", "train_set": None, "missing": None}
        for comparison, in_log_odds in (
            (Comparison.GAIN_BY_SKILL, False),
            (Comparison.GAIN_BY_SKILL_IN_LOG_ODDS, True),
        ):
            result = gain_by_skill(usable, in_log_odds=in_log_odds)
            where = "missing" if result.get("missing") else "note"
            parts = [result.get(where), f"left out: {'; '.join(left_out)}" if left_out else None]
            about |= {"comparison": comparison, "unit": usable[0].unit if usable else None}
            yield about | result | {where: "; ".join(part for part in parts if part) or None}
