"""Which checkpoints of a family can be had, and which of them to take."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from open_instruct.checkpoints.families import Checkpoint, Family
from open_instruct.common.errors import UserError


@dataclass(frozen=True)
class Available:
    """One checkpoint that a store has."""

    checkpoint: Checkpoint
    location: str
    """Address of a folder, or a revision of the family's repository on the Hub."""
    tokens_in_name: int | None = None
    """Tokens that the store's own name tells, rounded as there."""


def from_runs(family: Family) -> list[Available]:
    """The native checkpoints whose address is known without a list."""
    assert family.urls is not None
    found = [
        Available(Checkpoint(family.name, step), family.urls.format(run=run, step=step))
        for step, run in sorted(family.runs.items())
    ]
    main = [
        Available(Checkpoint(family.name, None), f.location) for f in found if f.checkpoint.step == family.main_step
    ]
    return found + main


def from_csv(path: Path, family: Family) -> list[Available]:
    """The checkpoints of a list in the OLMo repository's format, `Step,Checkpoint Directory`, by step.

    Rows of other runs than the family's are left out, which is printed. Raises UserError that names every row which
    contradicts itself or another, and where no row is of the family.
    """
    found: dict[int, Available] = {}
    others: list[str] = []
    problems: list[str] = []
    for line, row in read_csv(path):
        step, address = row["step"], row["checkpoint directory"]
        if not re.fullmatch(r"\d+", step) or urlsplit(address).scheme not in ("http", "https"):
            problems.append(f"line {line}: expected a step and an address, found {step!r}, {address!r}")
            continue
        named = re.search(r"step(\d+)(?!.*step\d)", address)
        if named is None or int(named[1]) != int(step):
            problems.append(f"line {line}: step {step}, but the address is {address}")
        elif family.urls and family.step_of_url(address) is None:
            others.append(address)
        elif int(step) in found and found[int(step)].location != address.rstrip("/"):
            problems.append(f"line {line}: step {step} again, at another address: {address}")
        else:
            found[int(step)] = Available(Checkpoint(family.name, int(step)), address.rstrip("/"))
    if problems:
        raise UserError(
            f"{path}: " + "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" * (len(problems) > 8))
        )
    if not found:
        example = f", e.g. {others[0]}" if others else ""
        raise UserError(
            f"{path} lists no checkpoint of family {family.name} ({family.urls}){example}; another --family?"
        )
    if others:
        print(f"{path}: left out {len(others)} row(s) of other runs than {family.name}'s, e.g. {others[0]}")
    if family.main_step in found:
        found[-1] = Available(Checkpoint(family.name, None), found[family.main_step].location)
    return [found[step] for step in sorted(found, key=lambda step: (step < 0, step))]


def read_csv(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Line number and cells by lower-case column name of every row.  Raises UserError for another kind of file."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = {name: (name or "").strip().lower() for name in reader.fieldnames or ()}
            if not {"step", "checkpoint directory"} <= set(columns.values()):
                raise UserError(f"{path}: expected columns Step,Checkpoint Directory; found {','.join(columns)}")
            return [
                (reader.line_num, {columns[key]: (cell or "").strip() for key, cell in row.items() if key in columns})
                for row in reader
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: no list of checkpoints ({error}); see docs/checkpoints.md") from error


def choose_amount(available: Sequence[Available], amount: int) -> list[Available]:
    """`amount` of the intermediate checkpoints, spaced as evenly over the steps as the store allows.

    First and last are among them; one alone is the last. Of all such choices, the one whose steps have the smallest
    total distance from evenly spaced ones. A family without intermediate checkpoints gives `main`.
    """
    points = [one for one in available if one.checkpoint.step is not None] or list(available)
    if not 1 <= amount <= len(points):
        raise UserError(f"ckpt_amount is {amount}, expected 1 to {len(points)}: so many checkpoints can be had")
    if amount == 1:
        return [points[-1]]
    steps = np.array([one.checkpoint.step for one in points], dtype=float)
    ideals = np.linspace(steps[0], steps[-1], amount)
    # best[j]: smallest total distance of the first choices so far, the last of them being point j.
    best, earlier = np.abs(steps - ideals[0]), []
    for ideal in ideals[1:]:
        lowest = np.minimum.accumulate(best)
        # Where the lowest up to each place was reached.
        where = np.maximum.accumulate(np.where(best == lowest, np.arange(len(best)), 0))
        earlier.append(np.concatenate(([0], where[:-1])))
        best = np.abs(steps - ideal) + np.concatenate(([np.inf], lowest[:-1]))
    chosen = [len(points) - 1]
    for where in reversed(earlier):
        chosen.append(int(where[chosen[-1]]))
    return [points[j] for j in reversed(chosen)]


def nearest_step(numbers: Sequence[int], step: int) -> int:
    """Of two that are as close, the lower one."""
    return min(numbers, key=lambda number: (abs(number - step), number))


def choose_steps(
    available: Sequence[Available], steps: Sequence[int | None], *, nearest: bool
) -> dict[int | None, Available]:
    """By step asked for (None: `main`): the checkpoint of that step or, with `nearest`, the closest one.

    Raises UserError that names every step which the store does not have, and the closest that it has.
    """
    by_step = {one.checkpoint.step: one for one in available}
    numbers = sorted(step for step in by_step if step is not None)
    chosen: dict[int | None, Available] = {}
    missing = []
    for step in steps:
        if step in by_step:
            chosen[step] = by_step[step]
        elif step is None or not numbers:
            missing.append("main" if step is None else str(step))
        elif nearest:
            chosen[step] = by_step[nearest_step(numbers, step)]
        else:
            missing.append(f"{step} (nearest: {', '.join(map(str, closest(numbers, step)))})")
    if missing:
        raise UserError(f"the store has no checkpoint of step {'; '.join(missing)}; choose others, or add --nearest")
    taken = [one.checkpoint for one in chosen.values()]
    if twice := {c.name for c in taken if taken.count(c) > 1}:
        raise UserError(f"{', '.join(sorted(twice))} is the nearest of several of the steps asked for; ask for fewer")
    return chosen


def closest(numbers: Sequence[int], step: int) -> list[int]:
    below = [number for number in numbers if number < step][-1:]
    return below + [number for number in numbers if number > step][:1]
