"""Which rows: the seeded sample of a train set, and few-shot exemplars that are neither trained on nor evaluated."""

import random

from open_instruct.tasks import TRAIN_SETS
from open_instruct.tasks.declarations import EvalSet, Split, TrainSet

NUM_EXEMPLARS = 8
NUM_CANDIDATES = 16
"""Rows that are drawn as exemplars; those that also stand in the evaluation set are passed over."""


def sampled_indices(train_set: TrainSet, size: int, seed: int) -> list[int]:
    """Indices that the seeded sample takes of each split of `size` rows."""
    return random.Random(seed).sample(range(size), size)[: num_trained(share(train_set), size)]


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
