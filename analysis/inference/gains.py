"""Which tasks gain most from fine-tuning: the gain of each task against the base model's skill on it.

Noise in a base score lowers the score and raises the gain, or the other way round, so a plain regression of gain on
base score is negative even without any relation (regression to the mean). Here base scores of one half of the
checkpoints are related to gains of the other half, whose errors are independent. The slope is an instrumental-variable
estimate, cov(base of A, gain in B) / cov(base of A, base of B), averaged over both assignments of the halves, which is
not biased by noise in the base score either.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.inference.finding import KENDALL_TASKS, UNTESTED, Finding
from analysis.tables.frames import Tables, base_series, found_checkpoints, primary_only, select, usual, where
from analysis.tables.summaries import task_curves
from eval.metrics.bootstrap import NUM_RESAMPLES
from eval.metrics.significance import trend
from open_instruct.tasks import EVAL_SETS

CHANCE = dict.fromkeys(("mnli_matched", "mnli_mismatched", "social_iqa"), 1 / 3) | {"csqa": 0.2}
CHANCE |= dict.fromkeys(("paws", "rte", "mrpc", "qqp", "boolq", "piqa", "winogrande", "copa", "sst2"), 0.5)
CHANCE |= dict.fromkeys(("arc_easy", "arc_challenge", "hellaswag", "openbookqa", "sciq", "mmlu"), 0.25)
"""Accuracy by chance, by evaluation set; generated text is never right by chance."""
FEWEST_TASKS = 3
Array = npt.NDArray[np.float64]


def who_gains_most(tables: Tables) -> Iterator[Finding]:
    """One finding over the tasks that were trained on, one over the suites."""
    for name, skills, gains, unknown in measured_tasks(tables):
        yield gain_against_skill(name, skills, gains, unknown)


def measured_tasks(tables: Tables) -> Iterator[tuple[str, Array, Array, list[str]]]:
    """Of each group of tasks: name, skills (tasks, checkpoints), gains of the same shape, tasks left out."""
    for family, checkpoints in found_checkpoints(tables.performance).items():
        base = base_series(tables.performance, family)
        for name, frame in (("tasks trained on", tables.performance), ("suite tasks", tables.suites)):
            scored = primary_only(usual(select(frame, format="default", family=family)))
            skills, gains, unknown = [], [], []
            for task in task_curves(where(scored, scored["kind"] != "text"), base, checkpoints):
                chance = chance_of(task.eval_set, task.kind)
                if np.isnan(task.base + task.tuned).any():
                    continue
                if chance is None:
                    unknown.append(f"{task.setting} ({task.series})")
                else:
                    skills.append((task.base - chance) / (1 - chance))
                    gains.append((task.tuned - task.base) / (1 - chance))
            if skills:
                yield name, np.stack(skills), np.stack(gains), unknown


def chance_of(eval_set: str, kind: str) -> float | None:
    if kind == "generation":
        return 0.0
    labels = getattr(EVAL_SETS.get(eval_set), "labels", None)
    return 1 / len(labels) if labels and kind == "labels" else CHANCE.get(eval_set)


def gain_against_skill(name: str, skills: Array, gains: Array, unknown: list[str]) -> Finding:
    """Both (tasks, checkpoints), as fractions of the largest possible gain from chance."""
    claim = f"among {name}, those on which the base model is weaker gain more from fine-tuning"
    about: dict[str, Any] = {"family": "who gains most", "claim": claim, "series": "all", "eval_set": "all"}
    about |= {"metric": "skill", "checkpoint": "all", "expected": -1, "test": KENDALL_TASKS, "n": len(skills)}
    left_out = f"; chance level unknown: {', '.join(unknown)}" if unknown else ""
    if len(skills) < FEWEST_TASKS or skills.shape[1] < 2:
        found = f"{len(skills)} tasks at {skills.shape[1]} checkpoints, {FEWEST_TASKS} at 2 needed{left_out}"
        return Finding(**about, **UNTESTED, missing=found)
    odd, even = slice(0, None, 2), slice(1, None, 2)
    first, second = skills[:, odd].mean(axis=1), skills[:, even].mean(axis=1)
    gain_first, gain_second = gains[:, odd].mean(axis=1), gains[:, even].mean(axis=1)
    if np.ptp(first) < 1e-12 or np.ptp(second) < 1e-12:
        return Finding(**about, **UNTESTED, missing="the base model does all of them equally well")
    halves = np.stack([first, second, gain_first, gain_second])  # (4, tasks)
    low, high = bootstrap_slope(halves)
    order = trend(first, gain_second)
    effect = float(instrumental_slope(halves[:, None])[0])
    note = f"; Kendall tau {order.tau:+.2f} over {len(skills)} tasks, corrected for regression to the mean{left_out}"
    tested: dict[str, Any] = {"effect": effect, "ci_low": low, "ci_high": high, "p_value": order.p_value}
    return Finding(**about, **tested, direction=int(np.sign(order.tau)), note=note)


def instrumental_slope(halves: Array) -> Array:
    """(4, resamples, tasks) -> (resamples,): the slope of gain on skill, not biased by noise in the skill."""
    centred = halves - halves.mean(axis=2, keepdims=True)
    first, second, gain_first, gain_second = centred
    shared = (first * second).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return ((first * gain_second).sum(axis=1) + (second * gain_first).sum(axis=1)) / 2 / shared


def bootstrap_slope(halves: Array) -> tuple[float, float]:
    """95% interval over tasks; resamples of a single task have no slope and are left out."""
    num_tasks = halves.shape[1]
    drawn = np.random.default_rng(0).integers(0, num_tasks, size=(NUM_RESAMPLES, num_tasks))
    slopes = instrumental_slope(halves[:, drawn])
    low, high = np.nanquantile(slopes[np.isfinite(slopes)], [0.025, 0.975])
    return float(low), float(high)
