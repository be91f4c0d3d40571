"""Choose checkpoints of several runs and stages: by step, by tokens seen, a number of them, or all."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from open_instruct.checkpoints.families import step_name, step_order
from open_instruct.checkpoints.family import ALL, MAIN, Family
from open_instruct.checkpoints.listing import Available, choose_amount, choose_steps, closest
from open_instruct.common.errors import UserError, nearest

Course = tuple[str | None, str | None]
"""Stage and run, whose checkpoints are one line of pre-training."""
UNITS = {"M": 10**6, "B": 10**9, "T": 10**12}
EXACT, NEAREST = 0.01, 0.25
"""Largest relative difference from the wanted tokens, without and with --nearest."""


@dataclass(frozen=True)
class Wanted:
    """What is to be chosen of each run; exactly one of the first four."""

    steps: tuple[int | None, ...] = ()
    tokens: tuple[int, ...] = ()
    amount: int | None = None
    every: bool = False
    nearest: bool = False
    """Take the closest where a store has no checkpoint of the step or tokens."""


@dataclass(frozen=True)
class Chosen:
    available: Available
    asked_for: dict[str, Any]
    """`step` or `tokens` that were wanted, where the checkpoint has others."""


def choose_each(
    family: Family, available: Sequence[Available], wanted: Wanted, *, runs: Sequence[str], stages: Sequence[str]
) -> list[Chosen]:
    """Choose of every course of these runs and stages.

    runs, stages: names, or `all`; none: the run of `main`, and the first stage.
    Raises UserError that names every course that lacks something, and what it has.
    """
    by_course = courses(family, available, runs=runs, stages=stages)
    problems, found = [], list[Chosen]()
    for course, own in by_course.items():
        try:
            if wanted.tokens:
                elsewhere = [one for other, them in by_course.items() if other[0] != course[0] for one in them]
                found += choose_tokens(own, elsewhere, wanted)
            elif wanted.amount is not None:
                found += [Chosen(one, {}) for one in choose_amount(own, wanted.amount)]
            elif wanted.every:
                # `main` has the weights of the last step in most families.
                points = [one for one in own if one.checkpoint.step is not None]
                found += [Chosen(one, {}) for one in points or own]
            else:
                chosen = choose_steps(own, wanted.steps, nearest=wanted.nearest)
                found += [Chosen(o, {} if s == o.checkpoint.step else {"step": s}) for s, o in chosen.items()]
        except UserError as error:
            problems.append(
                f"{course_name(family, course)}: {error}" if len(by_course) > 1 or any(course) else str(error)
            )
    if problems:
        raise UserError("; ".join(problems))
    return found


def courses(
    family: Family, available: Sequence[Available], *, runs: Sequence[str], stages: Sequence[str]
) -> dict[Course, list[Available]]:
    """The checkpoints by stage and run.  Raises UserError for a run or a stage that there is none of."""
    grouped: dict[Course, list[Available]] = {}
    for one in available:
        grouped.setdefault(course_of(one), []).append(one)
    names = [None, *(stage for stage in family.by_stage if stage)] if ALL in stages else [None]
    names = names if ALL in stages or not stages else [family.stage_named(stage) for stage in stages]
    found: dict[Course, list[Available]] = {}
    for stage in names:
        known = [run for of_stage, run in grouped if of_stage == stage]
        if not known and ALL not in stages:
            raise UserError(f"family {family.name}: the store has no checkpoint of {family.stage_name(stage) or 'it'}")
        default = [family.main_run] if family.main_run in known else []
        listed = ", ".join(MAIN if run == family.main_run else str(run) for run in known)
        for run in known if ALL in runs else [family.run_named(run) for run in runs] or default:
            if run not in known:
                named = [one for one in known if one]
                nearby = f" ({nearest(str(run), named)})" if named else ""
                raise UserError(f"family {family.name}: the store has no run {run}{nearby}, but {listed}; see --list")
            found[stage, run] = grouped[stage, run]
        if known and not runs and not default:
            raise UserError(f"family {family.name} has runs {listed}; choose some by --runs, or --runs {ALL}")
    return found


def choose_tokens(own: Sequence[Available], elsewhere: Sequence[Available], wanted: Wanted) -> list[Chosen]:
    """The checkpoint closest to each number of tokens; one beyond this stage is left to another that is closer to it.

    Raises UserError for numbers that none is close enough to.
    """
    tolerance = NEAREST if wanted.nearest else EXACT
    counted = dict[int, Available]()
    for one in own:
        if (seen := one.checkpoint.num_tokens) is not None:
            counted[seen] = one
    if not counted:
        raise UserError("tokens are not known: families.yaml has no tokens_per_step for it; choose by --steps")
    others = [tokens for one in elsewhere if (tokens := one.checkpoint.num_tokens) is not None]
    found, missing = list[Chosen](), list[str]()
    for tokens in wanted.tokens:
        best, margin = closest(tokens, list(counted)), tolerance * tokens
        gap, gap_elsewhere = abs(best - tokens), min((abs(one - tokens) for one in others), default=math.inf)
        is_beyond = not min(counted) <= tokens <= max(counted)
        if gap_elsewhere <= margin and (gap > margin or (is_beyond and gap_elsewhere < gap)):
            continue
        if gap <= margin:
            found.append(Chosen(counted[best], {} if gap <= EXACT * tokens else {"tokens": tokens}))
        else:
            missing.append(f"{short(tokens)} (nearest: {short(best)})")
    if missing:
        last = max(counted)
        cure = "choose others" if wanted.nearest else f"choose others, or add --nearest (within {NEAREST:.0%})"
        raise UserError(f"no checkpoint at {', '.join(missing)} tokens; it ends at {short(last)}; {cure}")
    names = [one.available.name for one in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"{', '.join(sorted(twice))} is the nearest of several numbers of tokens; request fewer")
    return found


def split(values: Sequence[str]) -> tuple[str, ...]:
    """Values from `a,b` or `a b`."""
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip())


def parse_tokens(values: Sequence[str]) -> tuple[int, ...]:
    """Numbers of tokens from `1B,10B` or `500M 1.5T`.  Raises UserError for anything else."""
    parts = split(values)
    matches = [re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)([MBT])", part) for part in parts]
    if wrong := [part for part, match in zip(parts, matches, strict=True) if match is None]:
        raise UserError(f"tokens: expected numbers like 500M, 10B or 1.5T, found {', '.join(wrong)}")
    found = tuple(round(float(match[1]) * UNITS[match[2]]) for match in matches if match)
    if not found or 0 in found or len(set(found)) < len(found):
        raise UserError(f"tokens: expected numbers above 0, each once, found {', '.join(parts) or 'none'}")
    return found


def short(tokens: float) -> str:
    """`15.0B`"""
    unit = next((unit for unit in ("T", "B", "M") if tokens >= UNITS[unit]), "")
    return f"{tokens / UNITS[unit]:.4g}{unit}" if unit else f"{tokens:.0f}"


def course_of(one: Available) -> Course:
    return one.checkpoint.stage, one.checkpoint.run


def course_name(family: Family, course: Course) -> str:
    """`stage2, run 1`, for messages."""
    stage, run = family.stage_name(course[0]), course[1]
    return ", ".join([part for part in (stage, f"run {run}" if run else "") if part]) or "the run"


def contradictions(family: Family, available: Sequence[Available]) -> Iterator[str]:
    """What the list says that families.yaml does not, and how runs of one stage differ; a sentence each."""
    by_course = courses(family, available, runs=(ALL,), stages=(ALL,))
    steps = {course: {s for one in own if (s := one.checkpoint.step) is not None} for course, own in by_course.items()}
    for course, own in steps.items():
        if not own:
            continue
        name, ends, stage = course_name(family, course), max(own), family.by_stage[course[0]]
        of_siblings = set[int]().union(*(them for other, them in steps.items() if other[0] == course[0]))
        if missing := sorted(step for step in of_siblings - own if step < ends):
            some = ", ".join(map(str, missing[:5])) + (" …" if len(missing) > 5 else "")
            yield f"{name} lacks {len(missing)} step(s) that other runs have: {some}"
        latest = max(*of_siblings, stage.last_step or 0)
        if ends < latest:
            yield f"{name} stops at step {ends}, of {latest}"
        if stage.last_step and ends > stage.last_step:
            yield f"{name} goes on to step {ends}; the last step in families.yaml is {stage.last_step}"
        if family.num_tokens(0, course[0]) is None:
            cure = "add tokens_per_step, and last_step of the stage before it, to families.yaml"
            yield f"{name}: its tokens are not known; {cure}"


def contradicts_name(family: Family, one: Available) -> bool:
    """Whether a name states another number of tokens than its step gives.

    Names are rounded to 1e9, up or down; a larger difference means a wrong step in the name or a wrong tokens_per_step.
    """
    if one.tokens_in_name is None or one.checkpoint.step is None:
        return False
    tokens = family.tokens_of_stage(one.checkpoint.step, one.checkpoint.stage)
    return tokens is not None and abs(one.tokens_in_name - tokens) > 10**9 + tokens / 200


def as_steps(family: Family, chosen: Sequence[Chosen]) -> dict[str, list[str]]:
    """Steps, as --steps and study files take them -> the runs and stages of which they were chosen."""
    by_course: dict[Course, list[int | None]] = {}
    for one in chosen:
        by_course.setdefault(course_of(one.available), []).append(one.available.checkpoint.step)
    found: dict[str, list[str]] = {}
    for course, steps in by_course.items():
        listed = ", ".join(map(step_name, sorted(steps, key=step_order)))
        found.setdefault(listed, []).append(course_name(family, course))
    return found
