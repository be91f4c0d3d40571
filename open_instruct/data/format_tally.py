"""Counts of the rows of a set while it is formatted, and the checks at its end. No row is dropped without a count."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from open_instruct.common.errors import UserError
from open_instruct.data.decontamination import TextHashes
from open_instruct.data.prompts import Task, empty_part
from open_instruct.tasks.declarations import EvalSet

Record = Mapping[str, Any]


@dataclass
class Tally:
    """Counts of one set."""

    task: Task
    rows: int = 0
    """Kept rows."""
    labels: Counter[str] = field(default_factory=Counter)
    empty: list[str] = field(default_factory=list)
    """Ids of rows with an empty part."""
    overlapping: dict[str, list[str]] = field(default_factory=lambda: {"exact": [], "normalised": []})
    """Kind of match -> ids of train rows that are also in an evaluation set."""
    seen: set[str] = field(default_factory=set)

    def add(self, records: Mapping[str, Record], *, evaluated: TextHashes | None = None, drop: bool = False) -> bool:
        """Count one row, given as format -> record; return whether it is kept.

        evaluated  texts that a train row is compared with; rows that match are counted, and kept unless `drop`

        Raises UserError for a repeated id.
        """
        first = next(iter(records.values()))
        if first["id"] in self.seen:
            raise UserError(f"duplicate id {first['id']}; expected each id once")
        self.seen.add(first["id"])
        part = next((part for record in records.values() if (part := empty_part(self.task, record))), None)
        if part:
            self.empty.append(f"{first['id']} ({part})")
            return False
        if match := evaluated.match(first) if evaluated else None:
            self.overlapping[match].append(first["id"])
            if drop:
                return False
        self.rows += 1
        if self.task.labels:
            self.labels[first["completion"].strip()] += 1
        return True

    @property
    def num_overlapping(self) -> int:
        return sum(map(len, self.overlapping.values()))

    def check(self, *, drop_empty: bool, one_label: bool, overlap: str = "keep") -> None:
        """Raises UserError for empty parts, overlap, no rows and a single label, unless they are allowed."""
        if self.empty and not drop_empty:
            raise UserError(
                f"{len(self.empty)} rows have an empty part: {shortened(self.empty)}; expected text in "
                f"{', '.join(self.task.fields.values())}. --drop_empty leaves them out"
            )
        if overlap == "refuse" and self.num_overlapping:
            exact, normalised = self.overlapping.values()
            raise UserError(
                f"{self.num_overlapping} train rows are also in the evaluation set ({len(exact)} exactly): "
                f"{shortened([*exact, *normalised])}; --overlap drop leaves them out"
            )
        if not self.rows and self.num_overlapping:
            raise UserError(
                f"each of the {self.num_overlapping} train rows is also in the evaluation set; train on other rows, or "
                "--overlap keep keeps them"
            )
        if not self.rows:
            raise UserError("no rows; is it the right split?")
        if self.task.labels and len(self.labels) < 2 and not one_label:
            raise UserError(
                f"every label is {next(iter(self.labels))!r}; accuracy on it measures nothing: use a labelled split, "
                "or --allow_unlabelled to format it nevertheless"
            )

    def facts(self) -> dict[str, Any]:
        """Entries of the sidecar."""
        counts: dict[str, Any] = {"rows": self.rows, "labels": dict(self.labels), "dropped_empty": len(self.empty)}
        if isinstance(self.task, EvalSet):
            return counts
        return counts | {f"overlap_{kind}": len(ids) for kind, ids in self.overlapping.items()}

    def __str__(self) -> str:
        parts = [f"{self.rows} rows"]
        parts += [f"{len(self.empty)} left out (empty)"] if self.empty else []
        parts += [f"{self.num_overlapping} also in the evaluation set"] if self.num_overlapping else []
        return ", ".join(parts)


def shortened(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
