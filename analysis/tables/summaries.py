"""Means over checkpoints and over tasks: change_summary.csv, group_summary.csv, and which tasks improve."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.tables.columns import (
    ALL_CHECKPOINTS,
    GROUP_COLUMNS,
    IMPROVING,
    INSTRUCTION_FOLLOWING,
    NOT_IMPROVING,
    SUMMARY_COLUMNS,
    Comparison,
)
from analysis.tables.frames import (
    base_series,
    found_checkpoints,
    groups,
    in_order,
    primary_only,
    related,
    select,
    usual,
    where,
)


def summarise_changes(differences: pd.DataFrame, performance: pd.DataFrame) -> pd.DataFrame:
    """Mean raw change, mean relative change and slope per checkpoint of every fine-tuned series and evaluation.

    The mean relative change is the mean over checkpoints of change / base. Series that lack a checkpoint are left out:
    missing.csv lists them.
    """
    keys = ["series", "setting", "format", "metric", "checkpoint"]
    level_of = dict(zip(performance[keys].itertuples(index=False, name=None), performance["Performance"], strict=True))
    rows = []
    changes = select(differences, comparison=Comparison.CHANGE)
    for (series, setting, task_format, metric), group in groups(changes, "series", "setting", "format", "metric"):
        ordered = in_order(group)
        change = ordered["difference"].to_numpy(float)
        if np.isnan(change).any():
            continue
        reference = ordered["reference"].iloc[0]
        base = np.array([level_of[reference, setting, task_format, metric, c] for c in ordered["checkpoint"]], float)
        rows.append(
            {
                "series": series,
                "eval dataset": ordered["eval dataset"].iloc[0],
                "metric": metric,
                "checkpoints": len(change),
                **means_and_slopes(base, base + change),
            }
        )
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))


def means_and_slopes(base: np.ndarray, tuned: np.ndarray) -> dict[str, float | None]:
    """Over checkpoints (checkpoints,); there is no relative change where a base score is zero."""
    return {
        "mean raw change": float(np.mean(tuned - base)),
        "mean relative change": float(np.mean((tuned - base) / base)) if (base != 0).all() else None,
        "base slope per checkpoint": slope(base) if len(base) > 1 else None,
        "fine-tuned slope per checkpoint": slope(tuned) if len(base) > 1 else None,
    }


def slope(values: np.ndarray) -> float:
    """Slope of the least-squares line over (checkpoints,); of equal values exactly zero, without float noise."""
    index = np.arange(len(values)) - (len(values) - 1) / 2
    return float(index @ (values - values[0]) / (index @ index))


def task_groups(performance: pd.DataFrame) -> dict[tuple[str, str, str], str]:
    """(family, setting, kind) -> improving or not: whether the base model's last 95% interval is above its first.

    Judged by the primary metric of tasks in the default format; held-out text is no task.
    """
    found = {}
    scored = primary_only(usual(select(performance, format="default")))
    for family in found_checkpoints(scored):
        of_base = select(scored, series=base_series(scored, family))
        for (setting, kind), rows in groups(of_base, "setting", "kind"):
            if kind != "text" and not setting.startswith(INSTRUCTION_FOLLOWING):
                ordered = in_order(rows)
                rises = ordered["ci_low"].iloc[-1] > ordered["ci_high"].iloc[0]
                found[family, setting, kind] = IMPROVING if rises else NOT_IMPROVING
    return found


def summarise_groups(performance: pd.DataFrame) -> pd.DataFrame:
    """For each group of tasks and checkpoint, the mean over its tasks of the change by fine-tuning, and of the slopes.

    A suite task counts with every model evaluated on it. The slope at a checkpoint is the difference to the previous
    one; over all checkpoints, that of the least-squares line. A checkpoint that lacks a task has no value, and
    `missing` names the task.
    """
    rows = []
    scored = primary_only(usual(select(performance, format="default")))
    for family, checkpoints in found_checkpoints(scored).items():
        of_family = select(scored, family=family)
        curves = list(task_curves(of_family, base_series(of_family, family), checkpoints))
        for group in (IMPROVING, NOT_IMPROVING):
            of_group = [curve for curve in curves if curve.group == group]
            rows += [{"family": family, "group": group, **row} for row in group_rows(of_group, checkpoints)]
    return pd.DataFrame(rows, columns=list(GROUP_COLUMNS))


class TaskCurve(NamedTuple):
    """Scores of the base model and of one fine-tuned series on one task."""

    setting: str
    eval_set: str
    kind: str
    group: str | None
    series: str
    base: np.ndarray
    """(checkpoints,), NaN where there is none."""
    tuned: np.ndarray


def task_curves(scored: pd.DataFrame, base_name: str | None, checkpoints: Sequence[str]) -> Iterator[TaskCurve]:
    """Of every task, with the models fine-tuned on its train set; of a suite task, with every fine-tuned model."""
    for (setting, eval_set, kind), rows in groups(scored, "setting", "eval_set", "kind"):
        tuned = where(rows, rows["train_set"].notna()) if kind == "suite" else related(rows, "in-domain")
        base = by_checkpoint(select(rows, series=base_name), checkpoints)
        for (series,), of_series in groups(tuned, "series"):
            group = rows["group"].iloc[0]
            yield TaskCurve(setting, eval_set, kind, group, series, base, by_checkpoint(of_series, checkpoints))


def by_checkpoint(rows: pd.DataFrame, checkpoints: Sequence[str]) -> np.ndarray:
    found = dict(zip(rows["checkpoint"], rows["Performance"], strict=True))
    return np.array([found.get(name, np.nan) for name in checkpoints], float)


def group_rows(curves: Sequence[TaskCurve], checkpoints: Sequence[str]) -> Iterator[dict[str, Any]]:
    if not curves:
        return
    base, tuned = (
        np.stack([curve.base for curve in curves]),
        np.stack([curve.tuned for curve in curves]),
    )  # (tasks, checkpoints)
    absent = np.isnan(base + tuned)
    base_mean, tuned_mean = base.mean(axis=0), tuned.mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = ((tuned - base) / base).mean(axis=0)
    for i, checkpoint in enumerate(checkpoints):
        yield {
            "checkpoint": checkpoint,
            "tasks": len(curves),
            "mean raw change": finite(tuned_mean[i] - base_mean[i]),
            "mean relative change": finite(relative[i]),
            "base slope per checkpoint": finite(base_mean[i] - base_mean[i - 1]) if i else None,
            "fine-tuned slope per checkpoint": finite(tuned_mean[i] - tuned_mean[i - 1]) if i else None,
            "missing": ", ".join(curve.setting for curve, gone in zip(curves, absent[:, i], strict=True) if gone)
            or None,
        }
    gone = [checkpoint for i, checkpoint in enumerate(checkpoints) if absent[:, i].any()]
    whole = {} if gone else means_and_slopes(base_mean, tuned_mean) | {"mean relative change": finite(relative.mean())}
    yield {"checkpoint": ALL_CHECKPOINTS, "tasks": len(curves), **whole, "missing": ", ".join(gone) or None}


def finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
