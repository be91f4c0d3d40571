"""Means over checkpoints and over tasks: change_summary.csv, group_summary.csv, and which tasks improve."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.tables.chance import bottom_of
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


def summarise_changes(differences: pd.DataFrame, levels: pd.DataFrame) -> pd.DataFrame:
    """Mean raw change, mean relative change and slope per checkpoint of every fine-tuned series and evaluation.

    Step 0, the random initialisation, is left out. The mean relative change is the mean over checkpoints of
    change / base, where every base is clearly above the score by chance. Series that lack a checkpoint are left out:
    missing.csv lists them.
    """
    keys = ["series", "setting", "format", "metric", "checkpoint"]
    names = levels[keys].itertuples(index=False, name=None)
    level_of = dict(zip(names, zip(levels["Performance"], levels["ci_low"], strict=True), strict=True))
    rows = []
    changes = select(differences, comparison=Comparison.CHANGE)
    changes = where(changes, changes["checkpoint"] != "0")
    for (series, setting, task_format, metric), group in groups(changes, "series", "setting", "format", "metric"):
        ordered = in_order(group)
        change = ordered["difference"].to_numpy(float)
        if np.isnan(change).any():
            continue
        reference = ordered["reference"].iloc[0]
        base, base_low = np.array(
            [level_of[reference, setting, task_format, metric, c] for c in ordered["checkpoint"]], float
        ).T
        chance = bottom_of(metric, ordered["eval_set"].iloc[0], ordered["kind"].iloc[0])
        is_above_chance = chance is not None and bool((base_low > chance).all())
        rows.append(
            {
                "series": series,
                "eval dataset": ordered["eval dataset"].iloc[0],
                "setting": setting,
                "metric": metric,
                "checkpoints": len(change),
                **means_and_slopes(base, base + change, has_relative=is_above_chance),
            }
        )
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))


def means_and_slopes(base: np.ndarray, tuned: np.ndarray, *, has_relative: bool) -> dict[str, float | None]:
    """Over checkpoints (checkpoints,)."""
    return {
        "mean raw change": float(np.mean(tuned - base)),
        "mean relative change": float(np.mean((tuned - base) / base)) if has_relative else None,
        "base slope per checkpoint": slope(base) if len(base) > 1 else None,
        "fine-tuned slope per checkpoint": slope(tuned) if len(base) > 1 else None,
    }


def slope(values: np.ndarray) -> float:
    """Slope of the least-squares line over (checkpoints,); of equal values exactly zero, without float noise."""
    index = np.arange(len(values)) - (len(values) - 1) / 2
    return float(index @ (values - values[0]) / (index @ index))


def task_groups(levels: pd.DataFrame) -> dict[tuple[str, str, str], str]:
    """(family, setting, kind) -> improving or not: whether the base's last 95% interval is above that after step 0.

    Judged by the primary metric of tasks in the default format; held-out text is no task.
    """
    found = {}
    scored = primary_only(usual(select(levels, format="default")))
    scored = where(scored, scored["checkpoint"] != "0")
    for family in found_checkpoints(scored):
        of_base = select(scored, series=base_series(scored, family))
        for (setting, kind), rows in groups(of_base, "setting", "kind"):
            if kind != "text" and not setting.startswith(INSTRUCTION_FOLLOWING):
                ordered = in_order(rows)
                rises = ordered["ci_low"].iloc[-1] > ordered["ci_high"].iloc[0]
                found[family, setting, kind] = IMPROVING if rises else NOT_IMPROVING
    return found


def summarise_groups(levels: pd.DataFrame) -> pd.DataFrame:
    """For each group of tasks and checkpoint, the mean over its tasks of the change by fine-tuning, and of the slopes.

    A suite task counts with every model evaluated on it. The slope at a checkpoint is the difference to the previous
    one; over all checkpoints, that of the least-squares line. A checkpoint that lacks a task has no value, and
    `missing` names the task. Step 0, the random initialisation, is not in the mean over all checkpoints, and there is
    no relative change where the base of a task is not clearly above chance.
    """
    rows = []
    scored = primary_only(usual(select(levels, format="default")))
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
    is_above_chance: np.ndarray
    """Whether the base's 95% interval is."""


def task_curves(scored: pd.DataFrame, base_name: str | None, checkpoints: Sequence[str]) -> Iterator[TaskCurve]:
    """Of every task, with the models fine-tuned on its train set; of a suite task, with every fine-tuned model."""
    for (setting, eval_set, kind), rows in groups(scored, "setting", "eval_set", "kind"):
        tuned = where(rows, rows["train_set"].notna()) if kind == "suite" else related(rows, "in-domain")
        of_base = select(rows, series=base_name)
        base = by_checkpoint(of_base, checkpoints)
        chance = bottom_of(str(rows["metric"].iloc[0]), eval_set, kind)
        is_above = by_checkpoint(of_base, checkpoints, "ci_low") > (np.inf if chance is None else chance)
        for (series,), of_series in groups(tuned, "series"):
            group = rows["group"].iloc[0]
            yield TaskCurve(
                setting, eval_set, kind, group, series, base, by_checkpoint(of_series, checkpoints), is_above
            )


def by_checkpoint(rows: pd.DataFrame, checkpoints: Sequence[str], column: str = "Performance") -> np.ndarray:
    found = dict(zip(rows["checkpoint"], rows[column], strict=True))
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
    is_above_chance = np.stack([curve.is_above_chance for curve in curves])
    relative = ((tuned - base) / np.where(is_above_chance, base, np.nan)).mean(axis=0)
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
    trained = [i for i, checkpoint in enumerate(checkpoints) if checkpoint != "0"]
    gone = [checkpoints[i] for i in trained if absent[:, i].any()]
    whole: dict[str, float | None] = {}
    if trained and not gone:
        whole = means_and_slopes(base_mean[trained], tuned_mean[trained], has_relative=False)
        whole["mean relative change"] = finite(relative[trained].mean())
    yield {"checkpoint": ALL_CHECKPOINTS, "tasks": len(curves), **whole, "missing": ", ".join(gone) or None}


def finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
