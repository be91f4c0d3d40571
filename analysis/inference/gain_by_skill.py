"""Which tasks gain most from fine-tuning: the slope, over tasks, of the gain on the base model's skill.

Noise in a base score lowers the score and raises the gain, or the other way round, so that a plain regression is
negative even without any relation (regression to the mean). Here the base scores are those of the other replicates, on
the other half of the items. The slope of each replicate is the effect; the tasks are fixed. In raw scores a task near
the ceiling gains less even if every task gains the same log-odds, so the slope is computed on both scales.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.inference.contrasts import Curve
from analysis.inference.estimates import from_replicates, log_odds
from analysis.inference.item_values import ItemValues

FEWEST_TASKS = 3
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Task:
    name: str
    base: Array
    """(replicates, items), the mean over checkpoints."""
    tuned: Array
    chance: float
    unit: str | None


def task_of(items: ItemValues, curve: Curve, task_format: str, name: str, chance: float) -> Task | str:
    """The scores of one fine-tuned series and its base on one task, or why they are not comparable."""
    tuned = [curve.cell(checkpoint, task_format) for checkpoint in curve.trained]
    base = [curve.cell(checkpoint, task_format, of_base=True) for checkpoint in curve.trained]
    keys = [*tuned, *base]
    if problem := items.problem(keys, curve.replicates) or items.fault(keys, curve.replicates):
        return f"{name}: {problem}"
    return Task(
        name,
        items.values(base, curve.replicates).mean(axis=0),
        items.values(tuned, curve.replicates).mean(axis=0),
        chance,
        curve.unit,
    )


def gain_by_skill(tasks: Sequence[Task], *, in_log_odds: bool) -> dict[str, Any]:
    """Estimate of the slope, or `missing`: why there is none."""
    replicates = {len(task.base) for task in tasks}
    if len(tasks) < FEWEST_TASKS or len(replicates) != 1 or replicates == {1}:
        return {
            "missing": f"{len(tasks)} tasks in {', '.join(map(str, sorted(replicates)) or ['no'])} replicates; "
            f"{FEWEST_TASKS} in the same 2 or more needed"
        }
    num_replicates = len(tasks[0].base)
    slopes = np.zeros(num_replicates)
    variance = 0.0
    for half in (0, 1):
        skill, gain, item_variance = (
            np.stack(part) for part in zip(*(halves(task, half, in_log_odds) for task in tasks), strict=True)
        )  # (tasks, replicates), (tasks, replicates), (tasks,)
        for r in range(num_replicates):
            x = np.delete(skill, r, axis=1).mean(axis=1)
            centred = x - x.mean()
            if np.square(centred).sum() < 1e-12:
                return {"missing": "the base model does all of them equally well"}
            weights = centred / np.square(centred).sum()
            slopes[r] += weights @ gain[:, r] / 2
            # The two halves have items of their own, so the variance of their mean is a quarter of the sum.
            variance += float(np.square(weights) @ item_variance) / num_replicates / 4
    note = f"over {len(tasks)} tasks: {', '.join(task.name for task in tasks)}"
    (row,) = from_replicates(slopes[None], np.array([variance]))
    return row | {"note": note}


def halves(task: Task, half: int, in_log_odds: bool) -> tuple[Array, Array, float]:
    """Skill of the base on one half of the items, gain on the other, and its variance over items.

    -> (replicates,), (replicates,), variance of the mean over replicates
    """
    inside = np.arange(task.base.shape[1]) % 2 == half
    base, tuned, outside = task.base[:, inside], task.tuned[:, inside], task.base[:, ~inside]
    num_items = base.shape[1]
    if in_log_odds:
        before, after = base.mean(axis=1), tuned.mean(axis=1)
        gain = log_odds(after, num_items) - log_odds(before, num_items)
        skill = log_odds(outside.mean(axis=1), outside.shape[1])
        slope_after, slope_before = (1 / max(p * (1 - p), 0.5 / num_items) for p in (after.mean(), before.mean()))
        each = tuned.mean(axis=0) * slope_after - base.mean(axis=0) * slope_before
    else:
        scale = 1 / (1 - task.chance)
        gain = scale * (tuned - base).mean(axis=1)
        skill = scale * (outside.mean(axis=1) - task.chance)
        each = scale * (tuned - base).mean(axis=0)
    return skill, gain, float(each.var(ddof=1) / num_items) if num_items > 1 else 0.0
