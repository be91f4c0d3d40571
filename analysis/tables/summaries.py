"""Means over checkpoints and over tasks: change_summary.csv, group_summary.csv, and which tasks improve."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd

from analysis.tables.frames import (
    ALL_CHECKPOINTS,
    IMPROVING,
    NOT_IMPROVING,
    base_series,
    found_checkpoints,
    groups,
    in_order,
    primary_only,
    relation,
    select,
    usual,
)

SUMMARY_COLUMNS = ("series", "eval dataset", "metric", "checkpoints", "mean raw change", "mean relative change")
SUMMARY_COLUMNS += ("base slope per checkpoint", "fine-tuned slope per checkpoint")
GROUP_COLUMNS = ("family", "group", "checkpoint", "tasks", "mean raw change", "mean relative change")
GROUP_COLUMNS += ("base slope per checkpoint", "fine-tuned slope per checkpoint", "missing")

APART = "llmbar"
"""Sets on following instructions stand apart from tasks."""


def summarise_changes(differences: pd.DataFrame, performance: pd.DataFrame) -> pd.DataFrame:
    """Mean raw change, mean relative change and slope per checkpoint of every fine-tuned series and evaluation.

    `differences` are fine-tuned minus base, a row for each checkpoint. The mean relative change is the mean over
    checkpoints of change / base. Series that lack a checkpoint are left out: missing.csv has them.
    """
    keys = ["series", "setting", "format", "metric", "checkpoint"]
    level_of = dict(zip(performance[keys].itertuples(index=False, name=None), performance["Performance"], strict=True))
    rows = []
    for (series, setting, task_format, metric), group in groups(differences, "series", "setting", "format", "metric"):
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
    """Over checkpoints (checkpoints,); a relative change of nothing is not a number."""
    enough = len(base) > 1
    return {
        "mean raw change": float(np.mean(tuned - base)),
        "mean relative change": float(np.mean((tuned - base) / base)) if (base != 0).all() else None,
        "base slope per checkpoint": slope(base) if enough else None,
        "fine-tuned slope per checkpoint": slope(tuned) if enough else None,
    }


def slope(values: np.ndarray) -> float:
    """Of the least-squares line over (checkpoints,); of what never changes it is zero, not float noise."""
    index = np.arange(len(values)) - (len(values) - 1) / 2
    return float(index @ (values - values[0]) / (index @ index))


def task_groups(performance: pd.DataFrame) -> dict[tuple[str, str, str], str]:
    """(family, setting, kind) -> improving or not: whether the base model's last 95% interval lies above its first.

    Of the main metric of tasks in the default format; held-out text is no task.
    """
    found = {}
    scored = primary_only(usual(select(performance, format="default")))
    for family in found_checkpoints(scored):
        of_base = select(scored, series=base_series(scored, family))
        for (setting, kind), rows in groups(of_base, "setting", "kind"):
            if kind != "text" and not setting.startswith(APART):
                ordered = in_order(rows)
                rises = ordered["ci_low"].iloc[-1] > ordered["ci_high"].iloc[0]
                found[family, setting, kind] = IMPROVING if rises else NOT_IMPROVING
    return found


def summarise_groups(performance: pd.DataFrame) -> pd.DataFrame:
    """For each group of tasks and checkpoint, the mean over its tasks of the change by fine-tuning, and of the slopes.

    A task counts with the model fine-tuned on its own train set, a suite task with every model that sat it. The
    slope at a checkpoint is the step from the one before; of all checkpoints, that of the least-squares line.
    A checkpoint that lacks a task has no number, and `missing` names it.
    """
    rows = []
    scored = primary_only(usual(select(performance, format="default")))
    for family, checkpoints in found_checkpoints(scored).items():
        curves: dict[str, list[tuple[str, np.ndarray, np.ndarray]]] = {IMPROVING: [], NOT_IMPROVING: []}
        for group, setting, base, tuned in task_curves(select(scored, family=family), family, checkpoints):
            curves[group].append((setting, base, tuned))
        for group, of_group in curves.items():
            rows += [{"family": family, "group": group, **row} for row in group_rows(of_group, checkpoints)]
    return pd.DataFrame(rows, columns=list(GROUP_COLUMNS))


def task_curves(
    scored: pd.DataFrame, family: str, checkpoints: Sequence[str]
) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """(group, setting, base scores, fine-tuned scores (checkpoints,), NaN where there is none) of every task."""
    base_name = base_series(scored, family)
    grouped = cast(pd.DataFrame, scored[scored["group"].notna()])
    for (group, setting, kind), rows in groups(grouped, "group", "setting", "kind"):
        tuned_rows = cast(pd.DataFrame, rows[rows["train_set"].notna()])
        is_own = [relation(role, name) == "in-domain" for role, name in tuned_rows[["role", "train_set"]].to_numpy()]
        if kind != "suite":
            tuned_rows = cast(pd.DataFrame, tuned_rows.loc[is_own])
        base = by_checkpoint(select(rows, series=base_name), checkpoints)
        for (_,), of_tuned in groups(tuned_rows, "series"):
            yield group, setting, base, by_checkpoint(of_tuned, checkpoints)


def by_checkpoint(rows: pd.DataFrame, checkpoints: Sequence[str]) -> np.ndarray:
    found = dict(zip(rows["checkpoint"], rows["Performance"], strict=True))
    return np.array([found.get(name, np.nan) for name in checkpoints], float)


def group_rows(
    curves: Sequence[tuple[str, np.ndarray, np.ndarray]], checkpoints: Sequence[str]
) -> Iterator[dict[str, Any]]:
    if not curves:
        return
    base, tuned = (np.stack([curve[i] for curve in curves]) for i in (1, 2))  # (tasks, checkpoints)
    absent = np.isnan(base + tuned)
    base_mean, tuned_mean = base.mean(axis=0), tuned.mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = ((tuned - base) / base).mean(axis=0)
    for i, checkpoint in enumerate(checkpoints):
        yield {
            "checkpoint": checkpoint,
            "tasks": len(curves),
            "mean raw change": number(tuned_mean[i] - base_mean[i]),
            "mean relative change": number(relative[i]),
            "base slope per checkpoint": number(base_mean[i] - base_mean[i - 1]) if i else None,
            "fine-tuned slope per checkpoint": number(tuned_mean[i] - tuned_mean[i - 1]) if i else None,
            "missing": ", ".join(curve[0] for curve, gone in zip(curves, absent[:, i], strict=True) if gone) or None,
        }
    gone = [checkpoint for i, checkpoint in enumerate(checkpoints) if absent[:, i].any()]
    whole = {} if gone else means_and_slopes(base_mean, tuned_mean) | {"mean relative change": number(relative.mean())}
    yield {"checkpoint": ALL_CHECKPOINTS, "tasks": len(curves), **whole, "missing": ", ".join(gone) or None}


def number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
