"""Faults of published rows, of which neither items nor predictions are known.

repeated value     the same score to the last digit at different checkpoints of a curve: one model evaluated twice, or a
                   copied row
broken checkpoint  several series of one evaluation fall at one checkpoint, by far more than their checkpoint noise, and
                   recover at the next: the evaluation failed, not the models
and what is declared of an evaluation set in tables/released.py (gold in prompt, unknown number of shots), the first
also of one's own rows under the paper's protocol.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from analysis.tables.columns import LOWER_IS_BETTER
from analysis.tables.frames import groups, in_order, number, stacked, where
from analysis.tables.released import UNKNOWN_SHOTS, dataset_of, fault_of, is_published

MIDPOINT_SD = math.sqrt(0.025 * 0.975 / 3000 / 2) / float(stats.norm.pdf(stats.norm.ppf(0.975)))
"""Resampling noise of a published score, in its standard errors: it is the middle of a 95% percentile interval of 3,000
resamples, and an end of it has the error of a sample quantile."""
FALL = 4.0
"""A fall at one checkpoint that is no noise: its second difference over the root mean square of the others."""
SEVERAL = 3
"""Series that fall together where an evaluation is broken; a base model and one close to it may share a real fall."""
MIN_OTHERS = 3
"""Second differences elsewhere on the curve, from which its noise is estimated."""


@dataclass(frozen=True)
class DegenerateResult:
    kind: str
    setting: str
    where: str
    why: str
    sources: tuple[str, ...]
    """Of the rows: file and line of a released table, or metrics file."""


def sources_of(rows: pd.DataFrame) -> tuple[str, ...]:
    return tuple(str(source) for source in rows["source"])


def published_faults(scores: pd.DataFrame) -> list[DegenerateResult]:
    published = where(scores, [is_published(source) for source in scores["source"]])
    return [*repeated_values(published), *broken_checkpoints(published), *declared_faults(scores)]


def equals_a_constant_answer(row: Mapping[str, Any]) -> str | None:
    """Evidence that the accuracy of a published row is that of always giving one answer; None where it is not.

    A score with a published error is compared within its resampling noise, another one exactly.
    """
    gold, score, error = dataset_of(row).gold, float(row["Performance"]), number(row["std"])
    if error is None:
        return None
    num_items = sum(gold.values())
    for label, count in gold.items():
        tolerance = 0.5 / num_items if number(row["n"]) else 3 * MIDPOINT_SD * error
        if abs(score - count / num_items) < tolerance:
            share = f"{count:,} of {num_items:,} gold labels are {label}"
            return f"{score:.4f} is the accuracy of always answering {label}: {share} ({count / num_items:.4f})"
    return None


def repeated_values(scores: pd.DataFrame) -> list[DegenerateResult]:
    """Equal scores of a curve that are no chance: by their digits, or since the models repeat each other elsewhere."""
    curves = groups(scores, "series", "eval dataset", "setting", "metric")
    equal = [(names, same) for names, rows in curves for _, same in rows.groupby("Performance") if len(same) > 1]
    repeats = Counter(
        (names[0], pair) for names, same in equal if not may_be_chance(same) for pair in pairs_of_checkpoints(same)
    )
    found = []
    for (series, dataset, setting, metric), same in equal:
        note = ""
        if may_be_chance(same):
            copied = {name for pair in pairs_of_checkpoints(same) if repeats[series, pair] >= 2 for name in pair}
            same, note = where(same, same["checkpoint"].isin(list(copied))), ", as on other evaluations"
        if len(same) > 1:
            place = f"{series} at {', '.join(in_order(same)['checkpoint'])} on {dataset}"
            score = f"{same['Performance'].iloc[0]:.6g} ({metric}) to the last digit at each{note}"
            why = f"{score}: one model measured twice, or copied"
            found.append(DegenerateResult("repeated value", setting, place, why, sources_of(same)))
    return found


def may_be_chance(equal: pd.DataFrame) -> bool:
    """Whether a score can occur twice by chance: k of a known number of items n, 0, 1 or a thousandth.

    Sixteen equal digits are no chance.
    """
    score = float(equal["Performance"].iloc[0])
    return bool(equal["n"].notna().any()) or abs(round(score, 3) - score) <= 1e-9


def pairs_of_checkpoints(rows: pd.DataFrame) -> Iterator[tuple[str, str]]:
    return itertools.combinations(sorted(rows["checkpoint"]), 2)


def broken_checkpoints(scores: pd.DataFrame) -> list[DegenerateResult]:
    found = []
    for (dataset, setting, metric), rows in groups(scores, "eval dataset", "setting", "metric"):
        fallen: dict[str, list[pd.DataFrame]] = {}
        for _, curve in groups(rows, "series"):
            ordered = in_order(curve)
            sign = -1 if metric in LOWER_IS_BETTER else 1
            for i in falls(sign * ordered["Performance"].to_numpy(float)):
                fallen.setdefault(str(ordered["checkpoint"].iloc[i]), []).append(ordered.iloc[[i]])
        for checkpoint, together in fallen.items():
            if len(together) >= SEVERAL:
                of_all = stacked(*together)
                scored = ", ".join(f"{r['series']} {r['Performance']:.3g}" for r in of_all.to_dict("records"))
                why = (
                    f"{scored} ({metric}): each falls below both neighbouring checkpoints, by more than {FALL:g} times "
                    "the noise of its curve, and recovers: the evaluation failed"
                )
                place = f"{checkpoint} on {dataset}"
                found.append(DegenerateResult("broken checkpoint", setting, place, why, sources_of(of_all)))
    return found


def falls(scores: npt.NDArray[np.float64]) -> list[int]:
    """Positions in (checkpoints,) of single low scores, judged by the second differences that do not contain them."""
    second = np.diff(scores, n=2)
    found = []
    for i, difference in enumerate(second):
        others = second[abs(np.arange(len(second)) - i) > 1]
        is_lowest = scores[i + 1] < min(scores[i], scores[i + 2])
        if len(others) >= MIN_OTHERS and is_lowest and difference > FALL * np.sqrt(np.mean(np.square(others))):
            found.append(i + 1)
    return found


def declared_faults(scores: pd.DataFrame) -> list[DegenerateResult]:
    found = []
    for (dataset, setting, _), rows in groups(scores, "eval dataset", "setting", "kind"):
        fault = fault_of(rows.iloc[0].to_dict())
        # A name that ends in a number of shots states it.
        is_stated = fault is UNKNOWN_SHOTS and rows["shots"].iloc[0] > 0
        if fault and not is_stated:
            found.append(DegenerateResult(fault.kind, setting, f"all rows of {dataset}", fault.why, sources_of(rows)))
    return found
