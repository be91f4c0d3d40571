"""A finding: a claim with its effect, interval and p-value, and how one is made of a row of paired_differences.csv."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.inference.degenerate_results import constant_gold
from analysis.tables.columns import BITS, LOWER_IS_BETTER, METRIC_LABELS
from analysis.tables.frames import Tables, number, relation, select, usual, where

Row = dict[Any, Any]
"""Of paired_differences.csv."""
SLOPE = "per doubling of the pre-training tokens"
"""Ending of the quantity of a slope."""


@dataclass(frozen=True)
class Finding:
    question: str
    """Key of QUESTIONS."""
    claim: str
    """A clause that is true or false."""
    quantity: str
    """What the effect is, as a noun."""
    series: str
    family: str | None
    """As the tables name it."""
    train_set: str | None
    eval_set: str
    metric: str
    checkpoint: str
    expected: int
    """Sign of the effect under the claim; 0 where any effect fits."""
    effect: float | None
    ci_low: float | None
    ci_high: float | None
    p_value: float | None
    df: float | None
    next_low: float | None
    next_high: float | None
    """95% prediction interval of the effect in one further replicate."""
    replicates: int
    unit: str | None
    """What the replicates are."""
    n: int | None
    """Items, or clusters of them."""
    missing: str | None = None
    """Why the claim is not testable."""
    note: str | None = None
    is_primary: bool = False
    p_adjusted: float | None = None
    """For the false discovery rate of all claims but the primary one, whose p-value stands alone; five times as large
    where the primary claim is not found."""
    verdict: str = ""
    sentence: str = ""


def without_constant_gold(tables: Tables) -> Tables:
    """Tables whose differences lack the sets with constant gold, of which no claim is made."""
    differences, constant = tables.differences, constant_gold(tables.performance)
    is_left_out = differences["setting"].isin(list(constant)) & (differences["kind"] == "labels")
    return replace(tables, differences=where(differences, ~is_left_out))


def rows_of(tables: Tables, comparison: str, *relations: str) -> Iterator[Row]:
    """The rows of a comparison whose evaluation set is one of `relations` to the train set of the series.

    Suites are left out.
    """
    found = usual(select(tables.differences, comparison=comparison))
    columns = zip(found["kind"], found["role"], found["train_set"], strict=True)
    is_used = [
        kind not in ("suite", "tasks") and relation(role, train_set or "") in relations
        for kind, role, train_set in columns
    ]
    yield from where(found, is_used).to_dict("records")


def own_task_rows(tables: Tables, comparison: str) -> Iterator[Row]:
    """Those in the default format whose evaluation set is that of the train set."""
    return (row for row in rows_of(tables, comparison, "in-domain") if row["format"] == "default")


def finding(question: str, claim: str, quantity: str, row: Row, *, expected: int) -> Finding:
    """The finding of one row."""
    measured = ("ci_low", "ci_high", "p_value", "df", "next_low", "next_high")
    replicates, items = number(row["replicates"]), number(row["n"])
    fields: dict[str, Any] = {name: finite(number(row[name])) for name in measured}
    fields |= {
        name: row[name] for name in ("series", "family", "train_set", "eval_set", "metric", "checkpoint", "unit")
    }
    fields |= {"missing": row["missing"], "note": row["note"], "effect": number(row["difference"])}
    fields |= {"replicates": 1 if replicates is None else int(replicates), "n": None if items is None else int(items)}
    return Finding(question=question, claim=claim, quantity=quantity, expected=expected, **fields)


def finite(value: float | None) -> float | None:
    """JSON has no infinity; infinite degrees of freedom are those of a normal distribution."""
    return value if value is not None and np.isfinite(value) else None


def metric_on(row: Row) -> str:
    return f"{METRIC_LABELS[row['metric']]} on {row['setting']}" + in_format(row)


def base_models(row: Row) -> str:
    """`base models`, with their family where there are several."""
    return f"{row['series']} models"


def in_format(row: Row) -> str:
    return "" if row["format"] == "default" or " " in row["format"] else f" (format {row['format']})"


def direction_of(metric: str) -> tuple[str, int]:
    """Verb and sign of an improvement."""
    return ("falls", -1) if metric in LOWER_IS_BETTER else ("rises", 1)


def by_metric(question: str, row: Row) -> str:
    """Bits per byte and scores are separate questions."""
    return question if row["metric"] == BITS else f"{question}, score"


def sign(value: float | None) -> int:
    return int(np.sign(value or 0.0))


def format_p(p_value: float | None) -> str:
    return "n/a" if p_value is None else "< 0.0001" if p_value < 1e-4 else f"= {p_value:.2g}"
