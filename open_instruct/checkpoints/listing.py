"""List the checkpoints of a family that a store has, and choose some of them."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from open_instruct.checkpoints.families import Checkpoint, step_name
from open_instruct.checkpoints.family import Family
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import decode


@dataclass(frozen=True)
class Available:
    """One checkpoint in a store."""

    checkpoint: Checkpoint
    location: str
    """URL of a folder, or a revision of a repository on the Hub."""
    tokens_in_name: int | None = None
    """Number of tokens that the store's own name states, of its stage alone, rounded."""
    repository: str = ""
    """On the Hub."""
    num_bytes: int | None = None
    date: str | None = None
    commit: str = ""

    @property
    def name(self) -> str:
        """For messages."""
        return self.checkpoint.place


def by_step(family: Family, urls: dict[int, str]) -> list[Available]:
    """Native checkpoints from their URLs, by step; `main` has the URL of `main_step`."""
    main = {None: urls[family.main_step]} if family.main_step in urls else {}
    ordered = {step: urls[step] for step in sorted(urls)} | main
    return [Available(Checkpoint(family.name, step), url) for step, url in ordered.items()]


def read_checkpoint_csv(path: Path, family: Family) -> list[Available]:
    """The checkpoints of a list in the OLMo repository's format, `Step,Checkpoint Directory`, by step, `main` last.

    Rows of other runs are left out, and their number is printed. Raises UserError that names every row that
    contradicts itself or another one, and where no row is of the family.
    """
    urls: dict[int, str] = {}
    others: list[str] = []
    problems: list[str] = []
    for line, row in read_csv(path):
        step, url = row["step"], row["checkpoint directory"].rstrip("/")
        if not re.fullmatch(r"[0-9]{1,12}", step) or urlsplit(url).scheme not in ("http", "https"):
            problems.append(f"line {line}: expected a step and a URL, found {step!r}, {url!r}")
            continue
        named = re.search(r"step([0-9]{1,12})(?!.*step\d)", url)
        if named is None or int(named[1]) != int(step):
            problems.append(f"line {line}: step {step}, but the URL is {url}")
        elif family.urls and not family.has_url(url):
            others.append(url)
        elif urls.setdefault(int(step), url) != url:
            problems.append(f"line {line}: step {step} again, at another URL: {url}")
    if problems:
        more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise UserError(f"{path}: {'; '.join(problems[:8])}{more}")
    example = f", e.g. {others[0]}" if others else ""
    if not urls:
        pattern = f" ({family.urls})" if family.urls else ""
        raise UserError(
            f"{path} lists no checkpoint of family {family.name}{pattern}{example}; choose another --family"
        )
    if others:
        print(f"{path}: left out {len(others)} row(s) of other runs than {family.name}'s{example}")
    return by_step(family, urls)


def read_csv(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Line number, and cells by lower-case column name, of every row.  Raises UserError for another kind of file."""
    try:
        reader = csv.DictReader(io.StringIO(decode(path.read_bytes(), place=str(path)), newline=""))
        columns = {name: (name or "").strip().lower() for name in reader.fieldnames or ()}
        if not {"step", "checkpoint directory"} <= set(columns.values()):
            raise UserError(f"{path}: expected columns Step,Checkpoint Directory; found {','.join(columns)}")
        return [
            (reader.line_num, {columns[key]: (cell or "").strip() for key, cell in row.items() if key in columns})
            for row in reader
        ]
    except (OSError, csv.Error) as error:
        raise UserError(f"{path}: not a list of checkpoints ({error}); see docs/checkpoints.md") from error


def choose_amount(available: Sequence[Available], amount: int) -> list[Available]:
    """Choose `amount` intermediate checkpoints, spaced as evenly over the steps as the store allows.

    Minimises the total distance of the steps from evenly spaced ones. First and last are included; one alone is the
    last. A family without intermediate checkpoints gives `main`.
    """
    points = [one for one in available if one.checkpoint.step is not None] or list(available)
    if not 1 <= amount <= len(points):
        raise UserError(f"ckpt_amount is {amount}, expected 1 to {len(points)}, the number of available checkpoints")
    if amount == 1:
        return [points[-1]]
    steps = np.array([one.checkpoint.step for one in points], dtype=float)
    ideals = np.linspace(steps[0], steps[-1], amount)
    # Dynamic programming. best[j]: smallest total distance of the choices so far, the last of them being point j.
    best, earlier = np.abs(steps - ideals[0]), []
    for ideal in ideals[1:]:
        lowest = np.minimum.accumulate(best)
        # Point at which the lowest value up to each point was reached.
        where = np.maximum.accumulate(np.where(best == lowest, np.arange(len(best)), 0))
        earlier.append(np.concatenate(([0], where[:-1])))
        best = np.abs(steps - ideal) + np.concatenate(([np.inf], lowest[:-1]))
    chosen = [len(points) - 1]
    for where in reversed(earlier):
        chosen.append(int(where[chosen[-1]]))
    return [points[j] for j in reversed(chosen)]


def missing_steps(available: Sequence[Available], steps: Sequence[int | None]) -> list[str]:
    """`2001 (nearest: 2000, 3000)` for each step (None: `main`) that the store does not have."""
    there = {one.checkpoint.step for one in available}
    numbers = sorted(step for step in there if step is not None)
    missing = []
    for step in steps:
        if step not in there:
            around = (
                [] if step is None else [n for n in numbers if n < step][-1:] + [n for n in numbers if n > step][:1]
            )
            missing.append(step_name(step) + (f" (nearest: {', '.join(map(str, around))})" if around else ""))
    return missing


def closest(step: int, numbers: Sequence[int]) -> int:
    """The number that is the closest to `step`, the lower of two."""
    return min(numbers, key=lambda number: (abs(number - step), number))


def choose_steps(
    available: Sequence[Available], steps: Sequence[int | None], *, nearest: bool
) -> dict[int | None, Available]:
    """Choose the checkpoint of each step (None: `main`) or, with `nearest`, the closest one, the lower of two.

    Returns the choices by requested step. Raises UserError that names every step that the store does not have, and
    the closest ones that it has.
    """
    by_number = {one.checkpoint.step: one for one in available}
    numbers = sorted(step for step in by_number if step is not None)
    if missing := missing_steps(available, [step for step in steps if step is None or not (nearest and numbers)]):
        raise UserError(f"the store has no checkpoint of step {'; '.join(missing)}; choose others, or add --nearest")
    chosen = {step: by_number.get(step) or by_number[closest(step or 0, numbers)] for step in steps}
    taken = [one.checkpoint for one in chosen.values()]
    if twice := {c.name for c in taken if taken.count(c) > 1}:
        raise UserError(f"{', '.join(sorted(twice))} is the nearest of several requested steps; request fewer")
    return chosen
