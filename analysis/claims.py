"""The study's claims, put as questions to the tables: each yields findings, not yet judged.

A claim is a clause that is true or false and the sign that its effect would have. Which evaluation set a claim speaks
of is decided by the set's role (in-domain of X, out-of-domain of X, other, pre-training), never by its name.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from scipy import stats

from analysis import contrasts
from analysis.tidy import (
    LOWER_IS_BETTER,
    METRIC_LABELS,
    Tables,
    base_series,
    found_checkpoints,
    groups,
    in_order,
    primary_metric,
    relation,
    select,
)
from eval.stats import trend

PAIRED = "permutation of signs, on the same items"
JOINT = "bootstrap over items, jointly for all formats"
KENDALL = "Kendall trend over checkpoints, exact"
UNPAIRED = "two proportions, unpaired"


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
    for row in rows_of(tables.differences, contrasts.STEP_MINUS_PREVIOUS, "pre-training"):
        claim = f"{metric_on(row)} falls from checkpoint {row['reference']} to {row['checkpoint']}"
        yield paired("pre-training", claim, row, expected=-1)
    for row in rows_of(tables.differences, contrasts.LAST_MINUS_FIRST, "pre-training"):
        if row["series"] == base_series(tables.performance, row["family"]):
            levels = select(tables.performance, **same(row, "series", "setting", "format", "metric"))
            claim = f"{metric_on(row)} of base models falls from checkpoint to checkpoint"
            yield trending("pre-training trend", claim, row, levels, "Performance", expected=-1, tables=tables)


def own_task(tables: Tables) -> Iterator[Finding]:
    """Per checkpoint; says too whether the two models' own 95% intervals are apart."""
    for row in rows_of(tables.differences, contrasts.FINE_TUNED_MINUS_BASE, "in-domain"):
        if row["format"] != "default":
            continue
        expected = -1 if row["metric"] in LOWER_IS_BETTER else 1
        claim = f"fine-tuning on {row['series']} improves {metric_on(row)} at checkpoint {row['checkpoint']}"
        apart = intervals_apart(tables.performance, row)
        note = "" if apart is None else "; separate 95% intervals" if apart else "; overlapping 95% intervals"
        yield paired("fine-tuning gain", claim, row, expected=expected, note=note)


def intervals_apart(performance: pd.DataFrame, row: dict[str, Any]) -> bool | None:
    where = same(row, "checkpoint", "setting", "format", "metric")
    both = select(performance, **where, series=[row["series"], row["reference"]])
    return bool(both["ci_low"].max() > both["ci_high"].min()) if len(both) == 2 else None


def latent_benefit(tables: Tables) -> Iterator[Finding]:
    for row in rows_of(tables.differences, contrasts.LAST_MINUS_FIRST, "in-domain"):
        if row["format"] == "default" and row["metric"] in LOWER_IS_BETTER:
            levels = select(tables.performance, **same(row, "series", "setting", "format", "metric"))
            claim = f"after fine-tuning on {row['series']}, {metric_on(row)} falls the longer the pre-training"
            yield trending("latent benefit: level", claim, row, levels, "Performance", expected=-1, tables=tables)
    for row in rows_of(tables.differences, contrasts.FINE_TUNED_MINUS_BASE_GROWTH, "in-domain"):
        if row["format"] == "default" and row["metric"] in LOWER_IS_BETTER:
            claim = f"what fine-tuning on {row['series']} saves in {metric_on(row)} grows with pre-training"
            gains = change_by_checkpoint(tables, row)
            yield trending("latent benefit: gain", claim, row, gains, "difference", expected=-1, tables=tables)


def forgetting(tables: Tables) -> Iterator[Finding]:
    for row in rows_of(tables.differences, contrasts.FINE_TUNED_MINUS_BASE_MEAN, "pre-training"):
        claim = f"fine-tuning on {row['series']} raises {metric_on(row)}, averaged over checkpoints"
        yield paired("forgetting", claim, row, expected=1)
    for row in rows_of(tables.differences, contrasts.FINE_TUNED_MINUS_BASE_GROWTH, "pre-training"):
        claim = f"the change of {metric_on(row)} by fine-tuning on {row['series']} rises or falls with pre-training"
        yield trending(
            "forgetting trend", claim, row, change_by_checkpoint(tables, row), "difference", expected=0, tables=tables
        )


def other_tasks(tables: Tables) -> Iterator[Finding]:
    for row in rows_of(tables.differences, contrasts.FINE_TUNED_MINUS_BASE_MEAN, "other", "out-of-domain"):
        if row["format"] == "default":
            where = "out of domain, " if relation(row["role"], row["train_set"]) == "out-of-domain" else ""
            claim = f"{where}fine-tuning on {row['series']} changes {metric_on(row)}, averaged over checkpoints"
            yield paired("other tasks", claim, row, expected=0)


def suites(tables: Tables) -> Iterator[Finding]:
    """Per checkpoint and task. The items' outcomes are not in suite files: an unpaired, so a cautious, comparison."""
    scores = select(tables.suites, metric=primary_metric("suite"))
    for (series,), tuned_rows in groups(cast(pd.DataFrame, scores[scores["train_set"].notna()]), "series"):
        base = base_series(scores, tuned_rows["family"].iloc[0])
        for tuned in in_order(tuned_rows).to_dict("records"):
            found = select(scores, series=base, **same(tuned, "setting", "checkpoint"))
            name = f"{METRIC_LABELS[tuned['metric']]} on {tuned['setting']}"
            claim = f"fine-tuning on {series} changes {name} at checkpoint {tuned['checkpoint']}"
            compared = two_proportions(tuned, found)
            direction = sign(compared["effect"])
            yield Finding("suites", claim, expected=0, direction=direction, test=UNPAIRED, **about(tuned), **compared)


def two_proportions(tuned: dict[Any, Any], base: pd.DataFrame) -> dict[str, Any]:
    if base.empty:
        missing = f"the base model lacks {tuned['setting']}"
        return dict.fromkeys(("effect", "ci_low", "ci_high", "p_value", "n")) | {"missing": missing}
    other, n = base.iloc[0].to_dict(), int(tuned["n"])
    effect = tuned["Performance"] - other["Performance"]
    pooled = (tuned["Performance"] * n + other["Performance"] * other["n"]) / (n + other["n"])
    pooled_error = np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / other["n"]))
    error = np.hypot(tuned["std"], other["std"])
    p_value = float(2 * stats.norm.sf(abs(effect) / pooled_error)) if pooled_error > 0 else 1.0
    low, high = float(effect - 1.96 * error), float(effect + 1.96 * error)
    return {"effect": float(effect), "ci_low": low, "ci_high": high, "p_value": p_value, "n": n}


def format_sensitivity(tables: Tables) -> Iterator[Finding]:
    """Of base models, and of those fine-tuned on the very task."""
    for row in rows_of(tables.differences, contrasts.SPREAD_FINE_TUNED_MINUS_BASE, "in-domain"):
        claim = f"fine-tuning on {row['series']} widens the spread of {metric_on(row)} over formats"
        yield paired("format sensitivity", claim, row, expected=1, test=JOINT)
    for row in select(tables.differences, comparison=contrasts.SPREAD_GROWTH).to_dict("records"):
        is_base = row["train_set"] is None
        if is_base or relation(row["role"], row["train_set"]) == "in-domain":
            where = same(row, "series", "setting", "metric")
            spreads = select(tables.differences, comparison=contrasts.SPREAD, **where)
            models = "base models" if is_base else f"models fine-tuned on {row['series']}"
            claim = f"the spread of {metric_on(row)} over formats narrows with pre-training, in {models}"
            family = "format sensitivity trend: base" if is_base else "format sensitivity trend"
            yield trending(family, claim, row, spreads, "difference", expected=-1, tables=tables)


def rows_of(differences: pd.DataFrame, comparison: str, *relations: str) -> Iterator[dict[Any, Any]]:
    """The rows of a comparison whose evaluation set is one of `relations` to what the series was trained on."""
    for row in select(differences, comparison=comparison).to_dict("records"):
        if relation(row["role"], row["train_set"] or "") in relations:
            yield row


def change_by_checkpoint(tables: Tables, row: dict[Any, Any]) -> pd.DataFrame:
    where = same(row, "series", "setting", "format", "metric")
    return select(tables.differences, comparison=contrasts.FINE_TUNED_MINUS_BASE, **where)


def same(row: dict[Any, Any], *columns: str) -> dict[str, Any]:
    return {name: row[name] for name in columns}


def metric_on(row: dict[Any, Any]) -> str:
    return f"{METRIC_LABELS[row['metric']]} on {row['setting']}"


def paired(
    family: str, claim: str, row: dict[Any, Any], *, expected: int, note: str = "", test: str = PAIRED
) -> Finding:
    effect = number(row["difference"])
    tested = {"p_value": number(row["p_value"]), "n": None if effect is None else int(row["n"]), "test": test}
    tested |= {"direction": sign(effect), "note": note}
    return Finding(family, claim, expected=expected, **about(row), **measured(row), **tested)


def trending(
    family: str, claim: str, row: dict[Any, Any], levels: pd.DataFrame, column: str, *, expected: int, tables: Tables
) -> Finding:
    """Effect and interval from `row`, last minus first checkpoint; the p-value from the trend of `levels`.

    A trend needs every checkpoint that the tables hold for this family of models.
    """
    measured_levels = in_order(levels.dropna(subset=[column]))
    values = measured_levels[column].to_numpy(float)
    checkpoints = found_checkpoints(tables.performance)[row["family"]]
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
