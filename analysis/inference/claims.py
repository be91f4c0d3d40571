"""The study's claims about scores: each function yields findings without verdicts.

A claim is a clause that is true or false, with the sign of its effect. The evaluation set of a claim follows from the
set's role (in-domain of X, out-of-domain of X, other, pre-training), never from its name.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis.inference.finding import (
    JOINT,
    NORMAL_95,
    Finding,
    Row,
    base_of,
    by_metric,
    change_by_checkpoint,
    direction_of,
    metric_on,
    normal_interval,
    own_task_rows,
    paired_finding,
    rows_of,
    same,
    trend_finding,
    tuned_levels,
)
from analysis.tables.columns import Comparison
from analysis.tables.frames import Tables, in_order, relation, select, usual, where

FEWEST_LEVEL = 5
"""Checkpoints of a plateau: with four, no order has a p-value below 1/12."""


def pre_training(tables: Tables) -> Iterator[Finding]:
    for row in rows_of(tables, Comparison.STEP_MINUS_PREVIOUS, "pre-training"):
        claim = f"{metric_on(row)} falls from checkpoint {row['reference']} to {row['checkpoint']}"
        yield paired_finding("pre-training", claim, row, expected=-1)
    for row in rows_of(tables, Comparison.LAST_MINUS_FIRST, "pre-training"):
        if row["series"] == base_of(tables, row):
            levels = select(tables.performance, **same(row, "series", "setting", "format", "metric"))
            claim = f"{metric_on(row)} of base models falls from checkpoint to checkpoint"
            yield trend_finding(tables, "pre-training trend", claim, row, levels, "Performance", expected=-1)


def own_task(tables: Tables) -> Iterator[Finding]:
    """Per checkpoint; the note says whether the two models' own 95% intervals overlap."""
    for row in own_task_rows(tables, Comparison.CHANGE):
        _, better = direction_of(row["metric"])
        claim = f"fine-tuning on {row['series']} improves {metric_on(row)} at checkpoint {row['checkpoint']}"
        yield paired_finding("fine-tuning gain", claim, row, expected=better, note=overlap(tables.performance, row))


def overlap(performance: pd.DataFrame, row: Row) -> str:
    keys = same(row, "checkpoint", "setting", "format", "metric")
    both = select(performance, **keys, series=[row["series"], row["reference"]])
    if len(both) != 2:
        return ""
    is_separate = both["ci_low"].max() > both["ci_high"].min()
    return "; separate 95% intervals" if is_separate else "; overlapping 95% intervals"


def latent_benefit(tables: Tables) -> Iterator[Finding]:
    """Of each task and metric: does the fine-tuned model improve with pre-training, and does the gain grow?"""
    for row in own_task_rows(tables, Comparison.LAST_MINUS_FIRST):
        rises, better = direction_of(row["metric"])
        claim = f"after fine-tuning on {row['series']}, {metric_on(row)} {rises} with longer pre-training"
        family, levels = by_metric("latent benefit: level", row), tuned_levels(tables, row)
        yield trend_finding(tables, family, claim, row, levels, "Performance", expected=better)
    for row in own_task_rows(tables, Comparison.CHANGE_GROWTH):
        gains, (_, better) = change_by_checkpoint(tables, row), direction_of(row["metric"])
        claim = f"the gain in {metric_on(row)} by fine-tuning on {row['series']} grows with pre-training"
        family = by_metric("latent benefit: gain", row)
        yield trend_finding(tables, family, claim, row, gains, "difference", expected=better)
        yield after_plateau(tables, row, gains)


def after_plateau(tables: Tables, row: Row, gains: pd.DataFrame) -> Finding:
    """Growth of the gain over the checkpoints where the base no longer improves: the paper's latent benefit."""
    _, better = direction_of(row["metric"])
    base = in_order(select(tables.performance, **same(row, "setting", "format", "metric"), series=base_of(tables, row)))
    names = list(base["checkpoint"])[plateau_start(base, better) :]
    window = in_order(select(gains, checkpoint=names))
    changed = row | {"difference": None, "ci_low": None, "ci_high": None, "p_value": None}
    claim = f"after the base model has plateaued, the gain in {metric_on(row)} by fine-tuning on {row['series']} grows"
    family = by_metric("latent benefit: after levelling", row)
    if len(names) >= FEWEST_LEVEL and len(window.dropna(subset=["difference"])) == len(names):
        first, last = window.iloc[0], window.iloc[-1]
        change, error = last["difference"] - first["difference"], float(np.hypot(first["std"], last["std"]))
        changed |= {"difference": change, **normal_interval(change, error)}
        claim += f" (from checkpoint {names[0]} on)"
        return trend_finding(tables, family, claim, changed, window, "difference", expected=better, checkpoints=names)
    start = names[0] if names else "none"
    needed = f"checkpoints of the base model's plateau (from {start} on): {len(names)}, {FEWEST_LEVEL} needed"
    changed["missing"] = row["missing"] or needed
    return paired_finding(family, claim, changed, expected=better)


def plateau_start(base: pd.DataFrame, better: int) -> int:
    """The first position from which the last checkpoint is not clearly better; the number of rows if there is none."""
    level, error = base["Performance"].to_numpy(float), base["std"].to_numpy(float)
    for i in range(len(level)):
        if (level[-1] - level[i]) * better <= NORMAL_95 * np.hypot(error[i], error[-1]):
            return i
    return len(level)


def forgetting(tables: Tables) -> Iterator[Finding]:
    for row in rows_of(tables, Comparison.MEAN_CHANGE, "pre-training"):
        claim = f"fine-tuning on {row['series']} raises {metric_on(row)}, averaged over checkpoints"
        yield paired_finding("forgetting", claim, row, expected=1)
    for row in rows_of(tables, Comparison.CHANGE_GROWTH, "pre-training"):
        claim = f"the change in {metric_on(row)} by fine-tuning on {row['series']} rises or falls with pre-training"
        changes = change_by_checkpoint(tables, row)
        yield trend_finding(tables, "forgetting trend", claim, row, changes, "difference", expected=0)


def other_tasks(tables: Tables) -> Iterator[Finding]:
    for row in rows_of(tables, Comparison.MEAN_CHANGE, "other", "out-of-domain"):
        if row["format"] == "default":
            place = "out of domain, " if relation(row["role"], row["train_set"]) == "out-of-domain" else ""
            claim = f"{place}fine-tuning on {row['series']} changes {metric_on(row)}, averaged over checkpoints"
            yield paired_finding("other tasks", claim, row, expected=0)


def suites(tables: Tables) -> Iterator[Finding]:
    """Per checkpoint and task: paired where the suite files have items, else an unpaired, conservative test."""
    for row in select(tables.differences, comparison=Comparison.CHANGE, kind="suite").to_dict("records"):
        claim = f"fine-tuning on {row['series']} changes {metric_on(row)} at checkpoint {row['checkpoint']}"
        yield paired_finding("suites", claim, row, expected=0)


def format_sensitivity(tables: Tables) -> Iterator[Finding]:
    """Of base models, and of those fine-tuned on the task itself."""
    for row in rows_of(tables, Comparison.MEAN_SPREAD_CHANGE, "in-domain"):
        claim = f"fine-tuning on {row['series']} widens the spread of {metric_on(row)} over formats"
        yield paired_finding("format sensitivity", claim, row, expected=1, test=JOINT)
    growth = usual(select(tables.differences, comparison=Comparison.SPREAD_GROWTH))
    for row in where(growth, growth["kind"] != "suite").to_dict("records"):
        is_base = row["train_set"] is None
        if is_base or relation(row["role"], row["train_set"]) == "in-domain":
            keys = same(row, "series", "setting", "metric")
            spreads = select(tables.differences, comparison=Comparison.SPREAD, **keys)
            models = "base models" if is_base else f"models fine-tuned on {row['series']}"
            claim = f"the spread of {metric_on(row)} over formats narrows with pre-training, in {models}"
            family = "format sensitivity trend: base" if is_base else "format sensitivity trend"
            yield trend_finding(tables, family, claim, row, spreads, "difference", expected=-1)
