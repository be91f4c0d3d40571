"""Optimiser steps and micro-batches: which examples are computed together, from their lengths and the seed alone.

Which examples form an optimiser step depends on the seed only. Padding or packing, the size of micro-batches and the
number of processes never move an example to another step. No torch here: the command line needs this module.
"""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class MicroBatchLimits:
    """The largest batch that one process computes in one forward pass."""

    max_tokens: int
    """Including padding. A longer example is a micro-batch of its own."""
    max_examples: int | None = None
    packing: bool = False

    def allow(self, lengths: Sequence[int]) -> bool:
        """Whether examples of these lengths fit into one micro-batch."""
        return len(lengths) <= 1 or (
            self.num_tokens(lengths) <= self.max_tokens
            and (self.max_examples is None or len(lengths) <= self.max_examples)
        )

    def num_tokens(self, lengths: Sequence[int]) -> int:
        """Tokens, including padding, of a micro-batch; the last token of an example is a target but no input."""
        return sum(lengths) - len(lengths) if self.packing else (max(lengths) - 1) * len(lengths)


def step_rows(
    num_rows: int, *, num_epochs: int, batch_size: int, seed: int, max_steps: int | None = None
) -> list[list[int]]:
    """Row numbers of every optimiser step; each epoch has its own seeded order. `max_steps` overrides `num_epochs`."""
    if max_steps is not None:
        num_epochs = -(-max_steps * batch_size // num_rows)
    epochs = [random.Random(f"{seed}-{epoch}").sample(range(num_rows), num_rows) for epoch in range(num_epochs)]
    order = [row for epoch in epochs for row in epoch]
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)][:max_steps]


def split_step(lengths: Sequence[int], limits: MicroBatchLimits, *, num_processes: int = 1) -> list[list[list[int]]]:
    """Split one step into as few micro-batches as the limits allow, the same number for every process.

    lengths: tokens of each example.
    -> [micro-batch][process]: indices into `lengths`, [] for a process without an example.
    """
    # Examples of similar length together: less padding.
    by_length = sorted(range(len(lengths)), key=lambda index: lengths[index])
    for num_micro_batches in range(1, len(by_length) + 1):
        num_parts = num_micro_batches * num_processes
        if limits.packing:
            parts = [by_length[part::num_parts] for part in range(num_parts)]
        else:
            cuts = [len(by_length) * part // num_parts for part in range(num_parts + 1)]
            parts = [by_length[start:end] for start, end in itertools.pairwise(cuts)]
        if all(limits.allow([lengths[index] for index in part]) for part in parts):
            return [parts[i : i + num_processes] for i in range(0, num_parts, num_processes)]
    raise AssertionError("a single example always fits")


def largest_micro_batch(
    lengths: "np.ndarray",
    num_targets: "np.ndarray",
    steps: Sequence[Sequence[int]],
    limits: MicroBatchLimits,
    *,
    num_processes: int,
) -> tuple[int, int, int]:
    """Largest numbers: of tokens, including padding, and of targets in a micro-batch; of micro-batches in a step.

    lengths, num_targets: (rows,).
    """
    max_tokens = max_targets = max_micro_batches = 0
    for rows in steps:
        step_lengths, step_targets = lengths[rows], num_targets[rows]
        micro_batches = split_step(step_lengths.tolist(), limits, num_processes=num_processes)
        max_micro_batches = max(max_micro_batches, len(micro_batches))
        for micro_batch in micro_batches:
            for part in filter(None, micro_batch):
                max_tokens = max(max_tokens, limits.num_tokens(step_lengths[part].tolist()))
                max_targets = max(max_targets, int(step_targets[part].sum()))
    return max_tokens, max_targets, max_micro_batches
