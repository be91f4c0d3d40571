"""A finding: a claim with its effect, interval and p-value; and how one is made from rows of the tables."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.inference.degenerate_results import constant_gold
from analysis.tables.columns import BITS, LOWER_IS_BETTER, METRIC_LABELS, Comparison
from analysis.tables.frames import Tables, base_series, found_checkpoints, in_order, number, relation, select, usual
from eval.metrics.significance import trend

PAIRED = "permutation of signs, on the same items"
JOINT = "bootstrap over items, jointly for all formats"
KENDALL = "Kendall trend over checkpoints, exact"
KENDALL_TASKS = "Kendall over tasks, exact up to eight"
UNPAIRED = "two means, unpaired"
NORMAL_95 = 1.96
UNTESTED: dict[str, Any] = dict.fromkeys(("effect", "ci_low", "ci_high", "p_value")) | {"direction": 0}
Row = dict[Any, Any]
"""Of paired_differences.csv."""


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
    """Why the claim is not testable."""
    note: str = ""
    p_holm: float | None = None
    verdict: str = ""
    sentence: str = ""


def rows_of(tables: Tables, comparison: str, *relations: str) -> Iterator[Row]:
    """The rows of a comparison whose evaluation set is one of `relations` to the train set of the series.

    Where several seeds were trained, only their mean is used. Suites and sets with constant gold are left out.
    """
    degenerate = constant_gold(tables.performance)
    for row in usual(select(tables.differences, comparison=comparison)).to_dict("records"):
        is_used = row["kind"] != "suite" and row["setting"] not in degenerate
        if is_used and relation(row["role"], row["train_set"] or "") in relations:
            yield row


def own_task_rows(tables: Tables, comparison: str) -> Iterator[Row]:
    """Those in the default format whose evaluation set is that of the train set."""
    return (row for row in rows_of(tables, comparison, "in-domain") if row["format"] == "default")


def same(row: Row, *columns: str) -> dict[str, Any]:
    return {name: row[name] for name in columns}


def metric_on(row: Row) -> str:
    return f"{METRIC_LABELS[row['metric']]} on {row['setting']}"


def direction_of(metric: str) -> tuple[str, int]:
    """Verb and sign of an improvement."""
    return ("falls", -1) if metric in LOWER_IS_BETTER else ("rises", 1)


def by_metric(family: str, row: Row) -> str:
    """Bits per byte and scores are separate families of claims."""
    return family if row["metric"] == BITS else f"{family}, score"


def base_of(tables: Tables, row: Row) -> str | None:
    return base_series(tables.performance, row["family"])


def change_by_checkpoint(tables: Tables, row: Row) -> pd.DataFrame:
    keys = same(row, "series", "setting", "format", "metric")
    return select(tables.differences, comparison=Comparison.CHANGE, **keys)


def tuned_levels(tables: Tables, row: Row) -> pd.DataFrame:
    """Fine-tuned scores by checkpoint; of a mean over seeds, base plus change."""
    keys = same(row, "setting", "format", "metric")
    levels = select(tables.performance, **keys, series=row["series"])
    if len(levels):
        return levels
    base = select(tables.performance, **keys, series=base_of(tables, row)).set_index("checkpoint")["Performance"]
    changed = change_by_checkpoint(tables, row)
    at_base = [base.get(name, np.nan) for name in changed["checkpoint"]]
    return changed.assign(Performance=changed["difference"].to_numpy(float) + np.array(at_base, float))


def missing_checkpoints(expected: Sequence[str], found: Iterable[str]) -> str | None:
    """Why a claim over checkpoints is not testable: it needs all of them."""
    absent = [name for name in expected if name not in set(found)]
    return f"missing: checkpoint {', '.join(absent)}" if absent else None


def checkpoints_of(tables: Tables, family: str) -> list[str]:
    """Every checkpoint that the tables have for a family of models."""
    return found_checkpoints(tables.performance).get(family, [])


def paired_finding(family: str, claim: str, row: Row, *, expected: int, note: str = "", test: str = PAIRED) -> Finding:
    """Effect, interval and p-value of one row."""
    effect = measured(row, expected=expected)
    num_items = None if number(row["n"]) is None else int(row["n"])
    # Published tables have no items, and so no number of them.
    test = test if num_items or effect["effect"] is None else UNPAIRED
    direction = int(np.sign(effect["effect"] or 0))
    tested = {"p_value": number(row["p_value"]), "n": num_items, "test": test, "direction": direction}
    return Finding(family, claim, **effect, **tested, note=note)


def trend_finding(
    tables: Tables,
    family: str,
    claim: str,
    row: Row,
    levels: pd.DataFrame,
    column: str,
    *,
    expected: int,
    checkpoints: Sequence[str] | None = None,
) -> Finding:
    """Effect and interval from `row`, last minus first checkpoint; the p-value from the trend of `levels`.

    Not testable where one of `checkpoints` is missing (default: all of the row's family of models).
    """
    checkpoints = checkpoints_of(tables, row["family"]) if checkpoints is None else checkpoints
    levels = in_order(levels.dropna(subset=[column]))
    values = levels[column].to_numpy(float)
    absent = missing_checkpoints(checkpoints, levels["checkpoint"])
    found = measured(row, expected=expected) | {"missing": absent or row["missing"]}
    tested = {"p_value": None, "n": len(values), "test": KENDALL, "direction": 0}
    if not absent and found["effect"] is not None:
        tested |= kendall(np.arange(len(values), dtype=float), values, ", from the first to the last")
    return Finding(family, claim, **found, **tested)


def kendall(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], ending: str = "") -> dict[str, Any]:
    """Test of a trend over checkpoints (checkpoints,); nothing for fewer than three, which have no trend."""
    if len(y) < 3 or np.ptp(x) == 0:
        return {}
    found = trend(x, y)
    note = f"; Kendall tau {found.tau:+.2f} over {len(y)} checkpoints{ending}"
    return {"p_value": found.p_value, "direction": int(np.sign(found.tau)), "note": note}


def measured(row: Row, *, expected: int) -> dict[str, Any]:
    """Fields of the finding of a row, without its test."""
    about = same(row, "series", "eval_set", "metric", "checkpoint", "missing") | {"expected": expected}
    return about | {"effect": number(row["difference"])} | {name: number(row[name]) for name in ("ci_low", "ci_high")}


def normal_interval(effect: float, error: float) -> dict[str, float | None]:
    """95% interval of an effect with a normal error."""
    return {"ci_low": number(effect - NORMAL_95 * error), "ci_high": number(effect + NORMAL_95 * error)}
