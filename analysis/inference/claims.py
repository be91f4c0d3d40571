"""The study's claims, put as questions to the tables: each yields findings, not yet judged.

A claim is a clause that is true or false and the sign that its effect would have. Which evaluation set a claim speaks
of is decided by the set's role (in-domain of X, out-of-domain of X, other, pre-training), never by its name.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.inference import contrasts
from analysis.inference.degenerate_results import unsound_settings
from analysis.tables.frames import (
    LOWER_IS_BETTER,
    METRIC_LABELS,
    Tables,
    base_series,
    found_checkpoints,
    in_order,
    relation,
    select,
    usual,
    where,
)
from eval.metrics.significance import trend

PAIRED = "permutation of signs, on the same items"
JOINT = "bootstrap over items, jointly for all formats"
KENDALL = "Kendall trend over checkpoints, exact"
KENDALL_TASKS = "Kendall over tasks, exact up to eight"
UNPAIRED = "two means, unpaired"
FEWEST_LEVEL = 5
"""Checkpoints on a level: of four, no order has a p-value below 1/12."""


@dataclass(frozen=True)
class Finding:
    family: str
    """Key of FAMILIES: the claims that are corrected together."""
    claim: str
    """A clause that is true or false."""
    series: str
    eval_set: str
    metric: str
    checkpoint: str
    expected: int
    """Sign of the effect under the claim; 0 where any effect fits."""
    direction: int
    """Sign that the test found: of the effect, or of Kendall's tau."""
    effect: float | None
    """Of a trend: last minus first checkpoint."""
    ci_low: float | None
    ci_high: float | None
    p_value: float | None
    test: str
    n: int | None
    """Items, or checkpoints where the test is a trend."""
    missing: str | None = None
    note: str = ""
    p_holm: float | None = None
    verdict: str = ""
    sentence: str = ""


def pre_training(tables: Tables) -> Iterator[Finding]:
    for row in rows_of(tables, contrasts.STEP_MINUS_PREVIOUS, "pre-training"):
        claim = f"{metric_on(row)} falls from checkpoint {row['reference']} to {row['checkpoint']}"
        yield paired("pre-training", claim, row, expected=-1)
    for row in rows_of(tables, contrasts.LAST_MINUS_FIRST, "pre-training"):
        if row["series"] == base_series(tables.performance, row["family"]):
            levels = select(tables.performance, **same(row, "series", "setting", "format", "metric"))
            claim = f"{metric_on(row)} of base models falls from checkpoint to checkpoint"
            yield trending("pre-training trend", claim, row, levels, "Performance", expected=-1, tables=tables)


def own_task(tables: Tables) -> Iterator[Finding]:
    """Per checkpoint; says too whether the two models' own 95% intervals are apart."""
    for row in rows_of(tables, contrasts.FINE_TUNED_MINUS_BASE, "in-domain"):
        if row["format"] != "default":
            continue
        expected = -1 if row["metric"] in LOWER_IS_BETTER else 1
        claim = f"fine-tuning on {row['series']} improves {metric_on(row)} at checkpoint {row['checkpoint']}"
        apart = intervals_apart(tables.performance, row)
        note = "" if apart is None else "; separate 95% intervals" if apart else "; overlapping 95% intervals"
        yield paired("fine-tuning gain", claim, row, expected=expected, note=note)


def intervals_apart(performance: pd.DataFrame, row: dict[str, Any]) -> bool | None:
    keys = same(row, "checkpoint", "setting", "format", "metric")
    both = select(performance, **keys, series=[row["series"], row["reference"]])
    return bool(both["ci_low"].max() > both["ci_high"].min()) if len(both) == 2 else None


def latent_benefit(tables: Tables) -> Iterator[Finding]:
    """Of each task and metric: does the fine-tuned model improve, and does what fine-tuning gains grow?"""
    for row in rows_of(tables, contrasts.LAST_MINUS_FIRST, "in-domain"):
        if row["format"] == "default":
            rises, better = direction_of(row["metric"])
            claim = f"after fine-tuning on {row['series']}, {metric_on(row)} {rises} the longer the pre-training"
            levels = tuned_levels(tables, row)
            family = by_metric("latent benefit: level", row)
            yield trending(family, claim, row, levels, "Performance", expected=better, tables=tables)
    for row in rows_of(tables, contrasts.FINE_TUNED_MINUS_BASE_GROWTH, "in-domain"):
        if row["format"] == "default":
            gains, (_, better) = change_by_checkpoint(tables, row), direction_of(row["metric"])
            claim = f"what fine-tuning on {row['series']} gains in {metric_on(row)} grows with pre-training"
            family = by_metric("latent benefit: gain", row)
            yield trending(family, claim, row, gains, "difference", expected=better, tables=tables)
            yield after_levelling(tables, row, gains)


def after_levelling(tables: Tables, row: dict[Any, Any], gains: pd.DataFrame) -> Finding:
    """The same over the checkpoints from which on the base score no longer rises: the paper's latent benefit."""
    _, better = direction_of(row["metric"])
    base = in_order(select(tables.performance, **same(row, "setting", "format", "metric"), series=base_of(tables, row)))
    start = levelled_from(base, better)
    names = list(base["checkpoint"])[start:]
    window = in_order(select(gains, checkpoint=names))
    about_window = row | {"difference": None, "ci_low": None, "ci_high": None, "p_value": None}
    claim = f"once the base model has levelled off, what fine-tuning on {row['series']} gains in {metric_on(row)} grows"
    family = by_metric("latent benefit: after levelling", row)
    if len(names) >= FEWEST_LEVEL and len(window.dropna(subset=["difference"])) == len(names):
        first, last = window.iloc[0], window.iloc[-1]
        change, error = last["difference"] - first["difference"], float(np.hypot(first["std"], last["std"]))
        about_window |= {"difference": change, "ci_low": change - 1.96 * error, "ci_high": change + 1.96 * error}
        claim += f" (from checkpoint {names[0]} on)"
        levelled = dict.fromkeys([row["family"]], names)
        return trending(
            family, claim, about_window, window, "difference", expected=better, tables=tables, among=levelled
        )
    about_window["missing"] = row["missing"] or (
        f"the base model levels off at checkpoint {names[0] if names else 'none'}, with {len(names)} left from there; "
        f"{FEWEST_LEVEL} needed"
    )
    return paired(family, claim, about_window, expected=better)


def levelled_from(base: pd.DataFrame, better: int) -> int:
    """The first position from which the last checkpoint is no longer clearly better than it."""
    level, error = base["Performance"].to_numpy(float), base["std"].to_numpy(float)
    for i in range(len(level)):
        if (level[-1] - level[i]) * better <= 1.96 * np.hypot(error[i], error[-1]):
            return i
    return len(level)


def direction_of(metric: str) -> tuple[str, int]:
    """What getting better is called, and its sign."""
    return ("falls", -1) if metric in LOWER_IS_BETTER else ("rises", 1)


def by_metric(family: str, row: dict[Any, Any]) -> str:
    """Bits per byte and scores ask the same of different numbers: each is a family of its own."""
    return family if row["metric"] == "bits_per_byte" else f"{family}, score"


def base_of(tables: Tables, row: dict[Any, Any]) -> str | None:
    return base_series(tables.performance, row["family"])


def tuned_levels(tables: Tables, row: dict[Any, Any]) -> pd.DataFrame:
    """Fine-tuned scores by checkpoint; of a mean over seeds, base plus change."""
    keys = same(row, "setting", "format", "metric")
    levels = select(tables.performance, **keys, series=row["series"])
    if len(levels):
        return levels
    base = select(tables.performance, **keys, series=base_of(tables, row)).set_index("checkpoint")["Performance"]
    changed = change_by_checkpoint(tables, row)
    at_base = [base.get(name, np.nan) for name in changed["checkpoint"]]
    return changed.assign(Performance=changed["difference"].to_numpy(float) + np.array(at_base, float))


def forgetting(tables: Tables) -> Iterator[Finding]:
    for row in rows_of(tables, contrasts.FINE_TUNED_MINUS_BASE_MEAN, "pre-training"):
        claim = f"fine-tuning on {row['series']} raises {metric_on(row)}, averaged over checkpoints"
        yield paired("forgetting", claim, row, expected=1)
    for row in rows_of(tables, contrasts.FINE_TUNED_MINUS_BASE_GROWTH, "pre-training"):
        claim = f"the change of {metric_on(row)} by fine-tuning on {row['series']} rises or falls with pre-training"
        yield trending(
            "forgetting trend", claim, row, change_by_checkpoint(tables, row), "difference", expected=0, tables=tables
        )


def other_tasks(tables: Tables) -> Iterator[Finding]:
    for row in rows_of(tables, contrasts.FINE_TUNED_MINUS_BASE_MEAN, "other", "out-of-domain"):
        if row["format"] == "default":
            place = "out of domain, " if relation(row["role"], row["train_set"]) == "out-of-domain" else ""
            claim = f"{place}fine-tuning on {row['series']} changes {metric_on(row)}, averaged over checkpoints"
            yield paired("other tasks", claim, row, expected=0)


def suites(tables: Tables) -> Iterator[Finding]:
    """Per checkpoint and task: paired where the suite files hold their items, else an unpaired, so cautious, test."""
    for row in select(tables.differences, comparison=contrasts.FINE_TUNED_MINUS_BASE, kind="suite").to_dict("records"):
        claim = f"fine-tuning on {row['series']} changes {metric_on(row)} at checkpoint {row['checkpoint']}"
        yield paired("suites", claim, row, expected=0)


def format_sensitivity(tables: Tables) -> Iterator[Finding]:
    """Of base models, and of those fine-tuned on the very task."""
    for row in rows_of(tables, contrasts.SPREAD_FINE_TUNED_MINUS_BASE, "in-domain"):
        claim = f"fine-tuning on {row['series']} widens the spread of {metric_on(row)} over formats"
        yield paired("format sensitivity", claim, row, expected=1, test=JOINT)
    growth = usual(select(tables.differences, comparison=contrasts.SPREAD_GROWTH))
    for row in where(growth, growth["kind"] != "suite").to_dict("records"):
        is_base = row["train_set"] is None
        if is_base or relation(row["role"], row["train_set"]) == "in-domain":
            keys = same(row, "series", "setting", "metric")
            spreads = select(tables.differences, comparison=contrasts.SPREAD, **keys)
            models = "base models" if is_base else f"models fine-tuned on {row['series']}"
            claim = f"the spread of {metric_on(row)} over formats narrows with pre-training, in {models}"
            family = "format sensitivity trend: base" if is_base else "format sensitivity trend"
            yield trending(family, claim, row, spreads, "difference", expected=-1, tables=tables)


def rows_of(tables: Tables, comparison: str, *relations: str) -> Iterator[dict[Any, Any]]:
    """The rows of a comparison whose evaluation set is one of `relations` to what the series was trained on.

    Where several seeds were trained, their mean speaks for them. Suites are asked about elsewhere; a set whose gold is
    constant measures nothing.
    """
    rows = usual(select(tables.differences, comparison=comparison))
    unsound = unsound_settings(tables.performance)
    for row in rows.to_dict("records"):
        if row["kind"] == "suite" or row["setting"] in unsound:
            continue
        if relation(row["role"], row["train_set"] or "") in relations:
            yield row


def change_by_checkpoint(tables: Tables, row: dict[Any, Any]) -> pd.DataFrame:
    keys = same(row, "series", "setting", "format", "metric")
    return select(tables.differences, comparison=contrasts.FINE_TUNED_MINUS_BASE, **keys)


def same(row: dict[Any, Any], *columns: str) -> dict[str, Any]:
    return {name: row[name] for name in columns}


def metric_on(row: dict[Any, Any]) -> str:
    return f"{METRIC_LABELS[row['metric']]} on {row['setting']}"


def paired(
    family: str, claim: str, row: dict[Any, Any], *, expected: int, note: str = "", test: str = PAIRED
) -> Finding:
    effect = number(row["difference"])
    items = None if number(row["n"]) is None else int(row["n"])
    # Published tables hold no items, and so no number of them.
    tested = {"p_value": number(row["p_value"]), "n": items, "test": test if items or effect is None else UNPAIRED}
    tested |= {"direction": sign(effect), "note": note}
    return Finding(family, claim, expected=expected, **about(row), **measured(row), **tested)


def trending(
    family: str,
    claim: str,
    row: dict[Any, Any],
    levels: pd.DataFrame,
    column: str,
    *,
    expected: int,
    tables: Tables,
    among: Mapping[str, Sequence[str]] | None = None,
) -> Finding:
    """Effect and interval from `row`, last minus first checkpoint; the p-value from the trend of `levels`.

    A trend needs every checkpoint that the tables hold for this family of models, or of those it is `among`.
    """
    measured_levels = in_order(levels.dropna(subset=[column]))
    values = measured_levels[column].to_numpy(float)
    checkpoints = found_checkpoints(tables.performance)[row["family"]]
    checkpoints = (among or {}).get(row["family"], checkpoints)
    absent = [name for name in checkpoints if name not in set(measured_levels["checkpoint"])]
    tested: dict[str, Any] = {"p_value": None, "n": len(values), "test": KENDALL, "direction": 0}
    tested |= {"missing": f"missing: checkpoint {', '.join(absent)}" if absent else row["missing"]}
    # Less than three points have no order to speak of.
    if not absent and len(values) >= 3 and number(row["difference"]) is not None:
        found = trend(np.arange(len(values), dtype=float), values)
        tested |= {"p_value": found.p_value, "direction": sign(found.tau)}
        tested |= {"note": f"; Kendall tau {found.tau:+.2f} over {len(values)} checkpoints, from the first to the last"}
    return Finding(family, claim, expected=expected, **about(row), **measured(row) | tested)


def about(row: dict[Any, Any]) -> dict[str, Any]:
    return same(row, "series", "eval_set", "metric", "checkpoint")


def measured(row: dict[Any, Any]) -> dict[str, Any]:
    values = {"effect": number(row["difference"]), "ci_low": number(row["ci_low"]), "ci_high": number(row["ci_high"])}
    return values | {"missing": row["missing"]}


def number(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)


def sign(value: float | None) -> int:
    return 0 if not value else int(math.copysign(1, value))
