"""Which tasks gain most from fine-tuning: the slope, over tasks, of the gain on the base model's skill.

Noise in a base score lowers the score and raises the gain, or the other way round, so that a plain regression is
negative even without any relation (regression to the mean). Here each gain meets base scores of the other replicates
only, on the other half of the items: the slope is the mean over pairs of replicates of sum(skill * gain) over that of
sum(skill * skill). As every replicate is in several pairs, its share is its jackknife pseudo-value; where the skills do
not differ at all these vary more than the slope, so that the test is conservative. The tasks are fixed. In raw scores a
task near the ceiling gains less even if every task gains the same log-odds, so the slope is computed on both scales.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.inference.contrasts import Curve
from analysis.inference.estimates import from_replicates, log_odds
from analysis.inference.format_variance import summed
from analysis.inference.item_values import ItemValues
from analysis.tables.replicates import FEWEST_REPLICATES, SEED

FEWEST_TASKS = 3
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Task:
    name: str
    base: Array
    """(replicates, units): the mean over checkpoints, summed over the items of each unit (an item or a cluster)."""
    tuned: Array
    weights: Array
    """(units,): items of each."""
    chance: float
    unit: str | None


def task_of(items: ItemValues, curve: Curve, task_format: str, name: str, chance: float) -> Task | str:
    """The scores of one fine-tuned series and its base on one task, or why they are not comparable."""
    if not curve.trained:
        return f"{name}: no checkpoint after step 0"
    tuned = [curve.cell(checkpoint, task_format) for checkpoint in curve.trained]
    base = [curve.cell(checkpoint, task_format, of_base=True) for checkpoint in curve.trained]
    keys = [*tuned, *base]
    if problem := items.problem(keys, curve.replicates) or items.fault(keys, curve.replicates):
        return f"{name}: {problem}"
    shared = items.about(keys, curve.replicates)
    before, after = (items.values(of_model, curve.replicates).mean(axis=0) for of_model in (base, tuned))
    of_base, weights = summed(before, shared)
    return Task(name, of_base, summed(after, shared)[0], weights, chance, curve.unit)


def gain_by_skill(tasks: Sequence[Task], *, in_log_odds: bool) -> dict[str, Any]:
    """Estimate of the slope, or `missing`: why there is none."""
    replicates = {len(task.base) for task in tasks}
    if len(tasks) < FEWEST_TASKS or len(replicates) != 1 or min(replicates) < FEWEST_REPLICATES:
        return {
            "missing": f"{len(tasks)} tasks in {', '.join(map(str, sorted(replicates))) or 'no'} replicates; "
            f"{FEWEST_TASKS} in the same {FEWEST_REPLICATES} or more needed"
        }
    if tasks[0].unit == SEED:
        return {"missing": "one pre-training run: by how much its base models happen to be better is in skill and gain"}
    products, variance, skills = [], 0.0, []
    for half in (0, 1):
        skill, gain, item_variance = (
            np.stack(part) for part in zip(*(halves(task, half, in_log_odds) for task in tasks), strict=True)
        )  # (tasks, replicates), (tasks, replicates), (tasks,)
        skill = skill - skill.mean(axis=0)
        skills.append(skill)
        products.append(skill.T @ gain)  # (replicates of the skill, replicates of the gain)
        # The two halves have items of their own, so the variance of their mean is a quarter of the sum.
        variance += float(np.square(skill.mean(axis=1)) @ item_variance) / 4
    spread = pair_mean(skills[0].T @ skills[1])
    if spread <= 1e-12:
        return {"missing": "the base model does all of them equally well, as far as the noise lets it be seen"}
    (row,) = from_replicates(pseudo_values(np.mean(products, axis=0))[None] / spread, np.array([variance / spread**2]))
    return row | {"note": f"over {len(tasks)} tasks: {', '.join(task.name for task in tasks)}"}


def pair_mean(products: Array) -> float:
    """Mean over pairs of different replicates.  (replicates, replicates)"""
    return float((products.sum() - np.trace(products)) / (len(products) * (len(products) - 1)))


def pseudo_values(products: Array) -> Array:
    """n times the mean over pairs, minus n - 1 times that without replicate r.  -> (replicates,)"""
    n = len(products)
    without = [pair_mean(np.delete(np.delete(products, r, axis=0), r, axis=1)) for r in range(n)]
    return n * pair_mean(products) - (n - 1) * np.array(without)


def halves(task: Task, half: int, in_log_odds: bool) -> tuple[Array, Array, float]:
    """Skill of the base on one half of the items, gain on the other, and its variance over items.

    -> (replicates,), (replicates,), variance of the mean over replicates
    """
    inside = np.arange(task.base.shape[1]) % 2 == half
    size, outside_size, num_units = task.weights[inside].sum(), task.weights[~inside].sum(), int(inside.sum())
    before, after = (scores[:, inside].sum(axis=1) / size for scores in (task.base, task.tuned))
    outside = task.base[:, ~inside].sum(axis=1) / outside_size
    if in_log_odds:
        gain = log_odds(after, size) - log_odds(before, size)
        skill = log_odds(outside, outside_size)
        slope_after, slope_before = (1 / max(p * (1 - p), 0.5 / size) for p in (after.mean(), before.mean()))
    else:
        slope_after = slope_before = 1 / (1 - task.chance)
        gain, skill = (after - before) * slope_after, (outside - task.chance) * slope_after
    each = (task.tuned * slope_after - task.base * slope_before)[:, inside].mean(axis=0)
    each = each - task.weights[inside] * each.sum() / size
    return skill, gain, float(np.square(each).sum() / size**2 * num_units / max(num_units - 1, 1))
