"""Figures that a part of the GPU check measures, written as it goes: what was measured when it was stopped is kept."""

from dataclasses import asdict, dataclass
from pathlib import Path

from open_instruct.common.json_files import write_json


@dataclass(frozen=True)
class Figure:
    what: str
    value: float | str
    unit: str = ""
    goal: str = ""
    """In words; empty where there is none."""
    is_met: bool | None = None


class Figures:
    """The figures of one part, in a JSON file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.figures: list[Figure] = []

    def add(
        self,
        what: str,
        value: float | str,
        unit: str = "",
        *,
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> None:
        """Record a figure and print it; `at_least` and `at_most` are its goals."""
        goals, is_met = [], True
        if at_least is not None:
            goals.append(f"at least {at_least:g}")
            is_met &= float(value) >= at_least
        if at_most is not None:
            goals.append(f"at most {at_most:g}")
            is_met &= float(value) <= at_most
        figure = Figure(what, value, unit, " and ".join(goals), is_met if goals else None)
        self.figures.append(figure)
        write_json(self.file, [asdict(each) for each in self.figures])
        print(line_of(figure), flush=True)


def line_of(figure: Figure) -> str:
    value = f"{figure.value:.4g}" if isinstance(figure.value, float) else str(figure.value)
    verdict = "" if figure.is_met is None else f"   goal {figure.goal}: {'met' if figure.is_met else 'MISSED'}"
    return f"{figure.what:<72} {value:>10} {figure.unit}{verdict}"
