"""Encoded examples of unequal lengths, and limits that split them into micro-batches in different ways."""

import numpy as np

from open_instruct.data.encode import IGNORED, Encoded
from open_instruct.training.steps import MicroBatchLimits

LENGTHS = (7, 3, 12, 5, 12, 4, 9)


LIMITS = {
    "one per batch": MicroBatchLimits(1),
    "several batches": MicroBatchLimits(24),
    "one batch": MicroBatchLimits(10_000),
    "packed": MicroBatchLimits(10_000, packing=True),
    "packed in two": MicroBatchLimits(30, packing=True),
}


def examples() -> list[Encoded]:
    rng = np.random.default_rng(0)
    made = []
    for length in LENGTHS:
        ids = rng.integers(0, 300, length).tolist()
        num_prompt = int(rng.integers(0, length - 1))
        made.append(Encoded(ids, [IGNORED] * num_prompt + ids[num_prompt:]))
    return made
