"""Who gains most from fine-tuning: the gain of each task against what its base model could already do.

A base score that is low by bad luck makes a large gain and the other way round, so a plain regression of gain on base
score falls even where nothing depends on anything (regression to the mean). Here the base scores of one half of the
checkpoints stand against the gains of the other half: their errors have nothing to do with each other. The slope is
that of an instrumental variable, cov(base of A, gain in B) / cov(base of A, base of B), averaged over both ways round,
which noise in the base score does not bend either.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.inference.claims import KENDALL_TASKS, Finding, base_of
from analysis.tables.frames import (
    Tables,
    found_checkpoints,
    groups,
    primary_only,
    relation,
    select,
    usual,
    where,
)
from eval.metrics.bootstrap import NUM_RESAMPLES
from eval.metrics.significance import trend
from open_instruct.tasks import EVAL_SETS

CHANCE = dict.fromkeys(("mnli_matched", "mnli_mismatched", "social_iqa"), 1 / 3) | {"csqa": 0.2}
CHANCE |= dict.fromkeys(("paws", "rte", "mrpc", "qqp", "boolq", "piqa", "winogrande", "copa", "sst2"), 0.5)
CHANCE |= dict.fromkeys(("arc_easy", "arc_challenge", "hellaswag", "openbookqa", "sciq", "mmlu"), 0.25)
"""Score of a guess, by evaluation set; text is never right by chance."""
FEWEST_TASKS = 3
Array = npt.NDArray[np.float64]


def who_gains_most(tables: Tables) -> Iterator[Finding]:
    """One finding over the tasks that were trained on, one over the suites."""
    for name, skills, gains, unknown in measured_tasks(tables):
        yield gain_against_skill(name, skills, gains, unknown)


def measured_tasks(tables: Tables) -> Iterator[tuple[str, Array, Array, list[str]]]:
    """(name of the group, skills (tasks, checkpoints), gains of the same shape, tasks left out)."""
    both = (("tasks trained on", tables.performance), ("suite tasks", tables.suites))
    for family, checkpoints in found_checkpoints(tables.performance).items():
        for name, frame in both:
            scored = primary_only(usual(select(frame, format="default", family=family)))
            scored = where(scored, scored["kind"] != "text")
            tasks = list(task_levels(tables, scored, checkpoints))
            known = [(skill, gain) for _, skill, gain in tasks if skill is not None]
            if known:
                skills, gains = (np.stack([pair[i] for pair in known]) for i in (0, 1))
                yield name, skills, gains, [task for task, skill, _ in tasks if skill is None]


def task_levels(tables: Tables, scored: Any, checkpoints: list[str]) -> Iterator[tuple[str, Array | None, Array]]:
    """(task, skill of the base model, gain), (checkpoints,); only tasks that have them all."""
    for (setting, eval_set, kind), rows in groups(scored, "setting", "eval_set", "kind"):
        base = by_checkpoint(select(rows, series=base_of(tables, rows.iloc[0].to_dict())), checkpoints)
        for (series, train_set), of_tuned in groups(where(rows, rows["train_set"].notna()), "series", "train_set"):
            tuned = by_checkpoint(of_tuned, checkpoints)
            is_own = kind == "suite" or relation(str(rows["role"].iloc[0]), train_set) == "in-domain"
            if not is_own or base is None or tuned is None:
                continue
            chance = chance_of(eval_set, kind)
            share = np.nan if chance is None else 1 - chance
            skill = None if chance is None else (base - chance) / share
            yield f"{setting} ({series})", skill, (tuned - base) / share


def by_checkpoint(rows: Any, checkpoints: list[str]) -> Array | None:
    found = dict(zip(rows["checkpoint"], rows["Performance"], strict=True))
    return np.array([found[name] for name in checkpoints], float) if set(checkpoints) <= set(found) else None


def chance_of(eval_set: str, kind: str) -> float | None:
    if kind == "generation":
        return 0.0
    labels = getattr(EVAL_SETS.get(eval_set), "labels", None)
    return 1 / len(labels) if labels and kind == "labels" else CHANCE.get(eval_set)


def gain_against_skill(name: str, skills: Array, gains: Array, unknown: list[str]) -> Finding:
    """Both (tasks, checkpoints), in parts of what there was to gain."""
    claim = f"among {name}, those that the base model does worse gain more from fine-tuning"
    about: dict[str, Any] = {"family": "who gains most", "claim": claim, "series": "all", "eval_set": "all"}
    about |= {"metric": "skill", "checkpoint": "all", "expected": -1, "test": KENDALL_TASKS, "n": len(skills)}
    nothing: dict[str, Any] = dict.fromkeys(("effect", "ci_low", "ci_high", "p_value"))
    left_out = f"; chance level unknown: {', '.join(unknown)}" if unknown else ""
    if len(skills) < FEWEST_TASKS or skills.shape[1] < 2:
        found = f"{len(skills)} tasks at {skills.shape[1]} checkpoints, {FEWEST_TASKS} at 2 needed{left_out}"
        return Finding(**about, **nothing, direction=0, missing=found)
    odd, even = slice(0, None, 2), slice(1, None, 2)
    first, second = skills[:, odd].mean(axis=1), skills[:, even].mean(axis=1)
    gain_first, gain_second = gains[:, odd].mean(axis=1), gains[:, even].mean(axis=1)
    if np.ptp(first) < 1e-12 or np.ptp(second) < 1e-12:
        return Finding(**about, **nothing, direction=0, missing="the base model does all of them equally well")
    halves = np.stack([first, second, gain_first, gain_second])  # (4, tasks)
    low, high = bootstrap_slope(halves)
    order = trend(first, gain_second)
    effect = float(instrumental_slope(halves[:, None])[0])
    note = f"; Kendall tau {order.tau:+.2f} over {len(skills)} tasks, regression to the mean taken out{left_out}"
    tested: dict[str, Any] = {"effect": effect, "ci_low": low, "ci_high": high, "p_value": order.p_value}
    return Finding(**about, **tested, direction=int(np.sign(order.tau)), note=note)


def instrumental_slope(halves: Array) -> Array:
    """(4, resamples, tasks) -> (resamples,): the slope of gain on skill, free of noise in the skill."""
    centred = halves - halves.mean(axis=2, keepdims=True)
    first, second, gain_first, gain_second = centred
    shared = (first * second).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return ((first * gain_second).sum(axis=1) + (second * gain_first).sum(axis=1)) / 2 / shared


def bootstrap_slope(halves: Array) -> tuple[float, float]:
    """95% interval over tasks; draws in which all tasks are one have no slope and are left out."""
    num_tasks = halves.shape[1]
    drawn = np.random.default_rng(0).integers(0, num_tasks, size=(NUM_RESAMPLES, num_tasks))
    slopes = instrumental_slope(halves[:, drawn])
    low, high = np.nanquantile(slopes[np.isfinite(slopes)], [0.025, 0.975])
    return float(low), float(high)
