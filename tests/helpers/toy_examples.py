"""Encoded examples of unequal lengths, and ways to put them into micro-batches."""

import numpy as np

from open_instruct.data.encode import IGNORED, Encoded
from open_instruct.training.batches import Holding

LENGTHS = (7, 3, 12, 5, 12, 4, 9)


HOLDINGS = {
    "one at a time": Holding(1),
    "bucketed": Holding(24),
    "all padded": Holding(10_000),
    "packed": Holding(10_000, packing=True),
    "packed in two": Holding(30, packing=True),
    "wider than they need": Holding(48, pad_to_multiple_of=8),
}


def examples() -> list[Encoded]:
    rng = np.random.default_rng(0)
    made = []
    for length in LENGTHS:
        ids = rng.integers(0, 300, length).tolist()
        num_prompt = int(rng.integers(0, length - 1))
        made.append(Encoded(ids, [IGNORED] * num_prompt + ids[num_prompt:]))
    return made
