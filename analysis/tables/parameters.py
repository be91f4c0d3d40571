"""Number of parameters of each model: declared by its family, else counted in the folder of its base model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from open_instruct.checkpoints.families import families
from open_instruct.checkpoints.family import Family
from open_instruct.checkpoints.parameter_count import count_parameters

Course = tuple[str | None, str | None, str | None]
"""Family, stage and run, whose models all have one size."""


def with_parameters(
    rows: Sequence[dict[str, Any]], folders: Mapping[Course, Path] = MappingProxyType({})
) -> list[dict[str, Any]]:
    """Add `parameters`, embeddings included, to rows with the identity of a model; None where it is unknown.

    Tokens become those that its family declares now: families.yaml may have lacked them when a model was made.

    folders  of a base model of each course
    """
    known, sizes = families(), dict[Course, int | None]()
    for row in rows:
        course = (row["family"], row.get("stage"), row.get("run"))
        if course not in sizes:
            declared = known[row["family"]].num_parameters if row["family"] in known else None
            counted = count_parameters(folders[course]) if declared is None and course in folders else 0
            sizes[course] = (counted or None) if declared is None else round(declared)
    return [
        row
        | {"parameters": sizes[row["family"], row.get("stage"), row.get("run")]}
        | ({} if (tokens := tokens_of(row, known)) is None else {"tokens": tokens})
        for row in rows
    ]


def tokens_of(row: Mapping[str, Any], known: Mapping[str, Family]) -> int | None:
    family, stage = known.get(row["family"]), row.get("stage")
    return None if family is None or stage not in family.by_stage else family.num_tokens(row["step"], stage)
