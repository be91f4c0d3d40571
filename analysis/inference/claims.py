"""The study's claims about scores: each function yields findings without verdicts.

A claim is a clause that is true or false, with the sign of its effect. The evaluation set of a claim follows from the
set's role (in-domain of X, out-of-domain of X, other, pre-training), never from its name.
"""

from collections.abc import Iterator

import numpy as np

from analysis.inference.finding import (
    SLOPE,
    Finding,
    Row,
    base_models,
    by_metric,
    direction_of,
    finding,
    metric_on,
    own_task_rows,
    rows_of,
    sign,
)
from analysis.tables.columns import Comparison
from analysis.tables.frames import Tables, number, relation, select, usual, where


def pre_training(tables: Tables) -> Iterator[Finding]:
    for row in rows_of(tables, Comparison.SLOPE, "pre-training"):
        if row["train_set"] is None:
            claim = f"{metric_on(row)} of {base_models(row)} falls with longer pre-training"
            quantity = f"change of {metric_on(row)} of {base_models(row)} {SLOPE}"
            yield finding("pre-training", claim, quantity, row, expected=-1)


def gain(tables: Tables) -> Iterator[Finding]:
    """At each checkpoint after step 0, which is drawn and not tested."""
    for row in own_task_rows(tables, Comparison.CHANGE):
        if row["checkpoint"] != "0":
            _, better = direction_of(row["metric"])
            at = f"at checkpoint {row['checkpoint']}"
            claim = f"fine-tuning on {row['series']} improves {metric_on(row)} {at}"
            yield finding("fine-tuning gain", claim, f"{change_by(row)} {at}", with_log_odds(row), expected=better)


def change_by(row: Row) -> str:
    return f"change of {metric_on(row)} by fine-tuning on {row['series']}"


def with_log_odds(row: Row) -> Row:
    """The row, whose note also gives the change on the scale of log-odds where there is one."""
    log_odds = number(row["log_odds"])
    parts = [row["note"], None if log_odds is None else f"{log_odds:+.2g} in log-odds"]
    return row | {"note": "; ".join(part for part in parts if part) or None}


def latent_benefit(tables: Tables) -> Iterator[Finding]:
    """Of each task and metric: does the fine-tuned model improve with pre-training, and does the gain grow?"""
    for row in own_task_rows(tables, Comparison.SLOPE):
        rises, better = direction_of(row["metric"])
        if row["train_set"] is not None:
            claim = f"after fine-tuning on {row['series']}, {metric_on(row)} {rises} with longer pre-training"
            quantity = f"change of {metric_on(row)} after fine-tuning on {row['series']}, {SLOPE}"
            yield finding(by_metric("latent benefit: level", row), claim, quantity, row, expected=better)
    for row in own_task_rows(tables, Comparison.CHANGE_SLOPE):
        _, better = direction_of(row["metric"])
        claim = f"the gain in {metric_on(row)} by fine-tuning on {row['series']} grows with pre-training"
        quantity = f"{change_by(row)}, {SLOPE}"
        yield finding(by_metric("latent benefit: gain", row), claim, quantity, row, expected=better)
    for row in own_task_rows(tables, Comparison.PLATEAU_SLOPE):
        _, better = direction_of(row["metric"])
        claim = f"while the base model is level, the gain in {metric_on(row)} by fine-tuning on {row['series']} grows"
        quantity = f"{change_by(row)} while the base is level, {SLOPE}"
        yield finding(by_metric("latent benefit: plateau", row), claim, quantity, row, expected=better)


def over_training(tables: Tables) -> Iterator[Finding]:
    for row in own_task_rows(tables, Comparison.LAST_MINUS_BEST):
        _, better = direction_of(row["metric"])
        claim = f"{metric_on(row)} of models fine-tuned on {row['series']} gets worse after some checkpoint"
        quantity = f"{metric_on(row)} of models fine-tuned on {row['series']}, last minus best earlier checkpoint"
        yield finding("over-training", claim, quantity, row, expected=-better)


def who_gains_most(tables: Tables) -> Iterator[Finding]:
    """One finding over the tasks that were trained on, one for each model's suite: on both scales or not at all."""
    raw_rows = select(tables.differences, comparison=Comparison.GAIN_BY_SKILL).to_dict("records")
    in_log_odds = select(tables.differences, comparison=Comparison.GAIN_BY_SKILL_IN_LOG_ODDS).to_dict("records")
    for raw, other in zip(raw_rows, in_log_odds, strict=True):
        row = dict(raw)
        if row["missing"] is None and other["missing"] is not None:
            row["missing"] = f"in log-odds: {other['missing']}"
        elif row["missing"] is None:
            if sign(raw["difference"]) != sign(other["difference"]):
                row["missing"] = (
                    f"raw scores and log-odds disagree: {raw['difference']:+.3g} and {other['difference']:+.3g}"
                )
            else:
                row["p_value"] = float(np.maximum(raw["p_value"], other["p_value"]))
                row["note"] = f"{raw['note']}; {other['difference']:+.3g} in log-odds"
        claim = f"among the {raw['series']}, those on which the base model is weaker gain more from fine-tuning"
        quantity = f"gain per unit of base-model skill among the {raw['series']}"
        yield finding("who gains most", claim, quantity, row, expected=-1)


def forgetting(tables: Tables) -> Iterator[Finding]:
    """By held-out text; that of a corpus that was fine-tuned on is not among them."""
    for row in rows_of(tables, Comparison.MEAN_CHANGE, "pre-training"):
        claim = f"fine-tuning on {row['series']} raises {metric_on(row)}, averaged over checkpoints"
        yield finding("forgetting", claim, f"{change_by(row)}, averaged over checkpoints", row, expected=1)
    for row in rows_of(tables, Comparison.CHANGE_SLOPE, "pre-training"):
        claim = (
            f"the change in {metric_on(row)} by fine-tuning on {row['series']} depends on the length of pre-training"
        )
        yield finding("forgetting trend", claim, f"{change_by(row)}, {SLOPE}", row, expected=0)


def other_tasks(tables: Tables) -> Iterator[Finding]:
    for row in rows_of(tables, Comparison.MEAN_CHANGE, "other", "out-of-domain"):
        if row["format"] == "default":
            place = "out of domain, " if relation(row["role"], row["train_set"]) == "out-of-domain" else ""
            claim = f"{place}fine-tuning on {row['series']} changes {metric_on(row)}, averaged over checkpoints"
            quantity = f"{change_by(row)}, averaged over checkpoints"
            yield finding("other tasks", claim, quantity, with_log_odds(row), expected=0)


def suites(tables: Tables) -> Iterator[Finding]:
    for row in select(tables.differences, comparison=Comparison.MEAN_CHANGE, kind="suite").to_dict("records"):
        claim = f"fine-tuning on {row['series']} changes {metric_on(row)}, averaged over checkpoints"
        quantity = f"{change_by(row)}, averaged over checkpoints"
        yield finding("suites", claim, quantity, with_log_odds(row), expected=0)


def format_sensitivity(tables: Tables) -> Iterator[Finding]:
    """Of base models, and of those fine-tuned on the task itself."""
    for row in rows_of(tables, Comparison.FORMATS_MEAN_CHANGE, "in-domain"):
        claim = f"fine-tuning on {row['series']} raises the variance of {metric_on(row)} between formats"
        quantity = f"change of the variance of {metric_on(row)} between formats by fine-tuning on {row['series']}"
        yield finding("format sensitivity", claim, quantity, row, expected=1)
    slopes = usual(select(tables.differences, comparison=Comparison.FORMATS_SLOPE))
    for row in where(slopes, slopes["kind"] != "suite").to_dict("records"):
        models = base_models(row) if row["train_set"] is None else f"models fine-tuned on {row['series']}"
        claim = f"the variance of {metric_on(row)} between formats falls with pre-training, in {models}"
        quantity = f"change of the variance of {metric_on(row)} between formats in {models}, {SLOPE}"
        yield finding("format sensitivity trend", claim, quantity, row, expected=-1)
