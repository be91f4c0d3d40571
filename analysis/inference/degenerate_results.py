"""Degenerate results: scores that carry no information about the model, with the evidence.

Of every table, from what it has:

constant gold       gold labels are hidden or all the same: base models score almost perfectly already at the first
                    checkpoint, where they cannot do the task; predicting always that label is right
perfect row         a model scores exactly 0 or 1 without spread on labels
constant predictor  one answer for at least 95% of the items: the score is that answer's share of the gold labels

Of published tables besides (published_faults.py): repeated values, broken checkpoints, and what is known of an
evaluation set.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.inference.published_faults import DegenerateResult, equals_a_constant_answer, published_faults, sources_of
from analysis.tables.columns import PRIMARY_METRICS
from analysis.tables.frames import Tables, groups, in_order, number, select, where
from analysis.tables.released import is_published
from eval.metrics.aggregation import TOP_PREDICTION

NEARLY_ALL = 0.99
MOSTLY = 0.95
CONSTANT_SHARE = 0.95
"""A model with this share of equal predictions is a constant predictor."""
ACCURACIES = ("accuracy", PRIMARY_METRICS["suite"])


def degenerate_results(tables: Tables) -> list[DegenerateResult]:
    constant = constant_gold(tables.performance)
    found = [
        DegenerateResult("constant gold", name, "all rows", why, sources_of(select(tables.performance, setting=name)))
        for name, why in constant.items()
    ]
    found += [result for result in perfect_rows(tables.performance) if result.setting not in constant]
    found += [result for result in constant_predictor_results(tables.scores) if result.setting not in constant]
    return found + published_faults(tables.scores)


def why_degenerate(tables: Tables) -> dict[str, str]:
    """Source of each degenerate row -> the evidence."""
    found: dict[str, list[str]] = {}
    for result in degenerate_results(tables):
        for source in result.sources:
            found.setdefault(source, []).append(result.why)
    return {source: "; ".join(reasons) for source, reasons in found.items()}


def constant_gold(performance: pd.DataFrame) -> dict[str, str]:
    """Settings with labels whose gold is constant -> the evidence."""
    found = {}
    of_bases = select(performance, metric="accuracy", format="default", kind="labels", train_set=None)
    for (_, series), rows in groups(of_bases, "setting", "series"):
        ordered = in_order(rows)
        scores = ordered["Performance"].astype(float)
        if len(scores) >= 2 and scores.iloc[0] >= NEARLY_ALL and scores.median() >= MOSTLY:
            found[str(rows["eval_set"].iloc[0])] = (
                f"the {series} model at its first checkpoint, {ordered['checkpoint'].iloc[0]}, scores "
                f"{scores.iloc[0]:.6g}, and the median over checkpoints is {scores.median():.3f}: "
                "the gold is one label, so always saying it is right"
            )
    # The gold is the same with any number of exemplars.
    settings = zip(performance["setting"], performance["eval_set"], performance["kind"], strict=True)
    return {setting: found[eval_set] for setting, eval_set, kind in settings if eval_set in found and kind == "labels"}


def one_answer(row: Mapping[Any, Any]) -> str | None:
    """Why a score is of a constant predictor: its accuracy says nothing about the model, its bits per byte still do.

    A model whose most frequent prediction was not recorded counts as sound.
    """
    if row["metric"] not in ACCURACIES:
        return None
    share = number(row.get(TOP_PREDICTION))
    if share is None:
        return equals_a_constant_answer(row) if is_published(row["source"]) else None
    return f"{share:.1%} of its predictions are one answer" if share >= CONSTANT_SHARE else None


def constant_predictor_results(scores: pd.DataFrame) -> list[DegenerateResult]:
    return [
        DegenerateResult(
            "constant predictor",
            row["setting"],
            f"{row['model_id']} on {row['eval dataset']}",
            why,
            (str(row["source"]),),
        )
        for row in select(scores, metric=list(ACCURACIES)).to_dict("records")
        if (why := one_answer(row)) is not None
    ]


def perfect_rows(performance: pd.DataFrame) -> list[DegenerateResult]:
    labelled = select(performance, kind="labels", metric="accuracy")
    extreme = where(labelled, labelled["Performance"].isin([0.0, 1.0]) & (labelled["std"] == 0))
    return [
        DegenerateResult(
            "perfect row",
            row["setting"],
            f"{row['model_id']} on {row['eval dataset']}",
            f"scores exactly {row['Performance']:g} with no spread",
            (str(row["source"]),),
        )
        for row in extreme.to_dict("records")
    ]
