"""The items of all models on one evaluation, as arrays over replicates and items, where they can be compared."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from analysis.tables.gathering import Key
from analysis.tables.measurements import Cell
from analysis.tables.replicates import SHARED

Array = npt.NDArray[np.float64]
Seeds = Mapping[str, Cell]
"""Seed -> items of one replicate's model."""
LISTED = 4
"""Most models that a message names each."""


class ItemValues:
    """One (setting, metric): the items of each model and replicate."""

    def __init__(self, cells: Mapping[Key, Mapping[str, Seeds]], constant: Collection[tuple[Key, str]] = ()) -> None:
        """`constant`: models that give one answer for nearly all items, which take part in no test."""
        self.absent: dict[tuple[Key, str], str] = {}
        self.cells: dict[tuple[Key, str], Cell] = {}
        self.constant = frozenset(constant)
        expected: dict[tuple[str, str], set[str]] = {}
        for key, of_key in cells.items():
            for seeds in of_key.values():
                expected.setdefault((key[0], key[2]), set()).update(seeds)
        for key, of_key in cells.items():
            for replicate, seeds in of_key.items():
                missing = expected[key[0], key[2]] - set(seeds)
                problem = f"seed {', '.join(sorted(missing))}" if missing else unequal(seeds.values())
                if problem:
                    self.absent[key, replicate] = problem
                else:
                    self.cells[key, replicate] = mean_cell(list(seeds.values()))
            self.absent |= copies(key, {name: self.cells[key, name] for name in of_key if (key, name) in self.cells})
        self.cells = {place: cell for place, cell in self.cells.items() if place not in self.absent}
        self.items = numbered(self.cells)
        self.not_finite = {place for place, cell in self.cells.items() if not np.isfinite(cell.values).all()}

    def cell(self, key: Key, replicate: str) -> tuple[Key, str]:
        """Where the cell of a replicate is: all seeds of one run share its base model."""
        shared = (key, SHARED)
        return shared if shared in self.cells or shared in self.absent else (key, replicate)

    def problem(self, keys: Iterable[Key], replicates: Sequence[str]) -> str | None:
        """Why these models cannot be compared, or None."""
        places = [self.cell(key, replicate) for key in keys for replicate in replicates]
        absent = [place for place in dict.fromkeys(places) if place not in self.cells]
        if absent:
            return "missing: " + "; ".join(named(place, self.absent.get(place)) for place in absent)
        first = places[0]
        for place in places:
            if place in self.not_finite:
                return f"values that are no numbers: {named(place)}"
            if self.items[place] != self.items[first]:
                a, b = self.cells[first], self.cells[place]
                if a.ids != b.ids:
                    what = "other items" if set(a.ids) != set(b.ids) else "items in another order"
                    return f"{what}: {len(a.ids)} in {named(first)}, {len(b.ids)} in {named(place)}"
                return f"other completions in {named(first)} and {named(place)}"
        return None

    def fault(self, keys: Iterable[Key], replicates: Sequence[str]) -> str | None:
        """Why a comparison of these models takes part in no test, or None."""
        places = dict.fromkeys(self.cell(key, replicate) for key in keys for replicate in replicates)
        constant = [place for place in places if place in self.constant]
        if not constant:
            return None
        if len(constant) > LISTED:
            return (
                f"one answer for nearly all items in {len(constant)} of {len(places)} models, as {named(constant[0])}"
            )
        return "one answer for nearly all items: " + "; ".join(map(named, constant))

    def values(self, keys: Sequence[Key], replicates: Sequence[str]) -> Array:
        """(keys, replicates, items)"""
        return np.stack([[self.cells[self.cell(key, name)].values for name in replicates] for key in keys])

    def about(self, keys: Sequence[Key], replicates: Sequence[str]) -> Cell:
        """A cell with the ids, weights and clusters that all of them share."""
        return self.cells[self.cell(keys[0], replicates[0])]


def unequal(cells: Iterable[Cell]) -> str | None:
    """Why the seeds of one replicate cannot be averaged, or None."""
    first, *others = cells
    for other in others:
        if other.ids != first.ids:
            return f"seeds with other items, {len(first.ids)} and {len(other.ids)}"
        if items_of(first) != items_of(other):
            return "seeds with other completions"
    return None


def copies(key: Key, cells: Mapping[str, Cell]) -> dict[tuple[Key, str], str]:
    """Why replicates with the bits of another one are none: two runs never agree on every item to the last digit."""
    first: dict[bytes, str] = {}
    found = {}
    for name, cell in cells.items():
        if cell.weights is None:
            continue  # scores of a few items may well be equal
        original = first.setdefault(cell.values.tobytes() + cell.weights.tobytes(), name)
        if original != name and np.ptp(cell.values / cell.weights) > 0:
            found[key, name] = f"the values of {original} in every item: a copied model?"
    return found


def mean_cell(cells: Sequence[Cell]) -> Cell:
    return cells[0] if len(cells) == 1 else replace(cells[0], values=np.mean([cell.values for cell in cells], axis=0))


def items_of(cell: Cell) -> tuple[tuple[str, ...], bytes]:
    """What two cells have in common if they can be compared: ids and weights."""
    return cell.ids, b"" if cell.weights is None else cell.weights.tobytes()


def numbered(cells: Mapping[tuple[Key, str], Cell]) -> dict[tuple[Key, str], int]:
    """Number each cell by its items and weights: cells with the same number can be compared."""
    numbers: dict[tuple[tuple[str, ...], bytes], int] = {}
    return {place: numbers.setdefault(items_of(cell), len(numbers)) for place, cell in cells.items()}


def named(place: tuple[Key, str], why: str | None = None) -> str:
    (series, checkpoint, task_format), replicate = place
    parts = [f"format {task_format}"] if task_format not in ("default", "") else []
    parts += [f"replicate {replicate}"] if replicate else []
    return ", ".join([f"{series} at {checkpoint}", *parts]) + (f" ({why})" if why else "")
