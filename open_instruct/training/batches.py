"""Which examples make which optimiser step, and how a process holds them: pure functions of lengths and seed.

The steps depend on the seed alone. How a step's examples are held (one at a time or all at once, padded or packed, by
one process or many) never moves an example to another step.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from open_instruct.data.encode import IGNORED, Encoded


def step_rows(
    num_rows: int, *, num_epochs: int, batch_size: int, seed: int, max_steps: int | None = None
) -> list[list[int]]:
    """Row numbers of every optimiser step. `max_steps` takes the place of `num_epochs`."""
    if max_steps is not None:
        num_epochs = -(-max_steps * batch_size // num_rows)
    order = example_order(num_rows, num_epochs=num_epochs, seed=seed)
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)][:max_steps]


def example_order(num_rows: int, *, num_epochs: int, seed: int) -> list[int]:
    """Row numbers of all epochs, each epoch in its own seeded order."""
    epochs = [random.Random(f"{seed}-{epoch}").sample(range(num_rows), num_rows) for epoch in range(num_epochs)]
    return [row for epoch in epochs for row in epoch]


@dataclass(frozen=True)
class Holding:
    """How much one process holds at once."""

    max_tokens: int
    """Padding included. An example that is longer is held alone."""
    max_examples: int | None = None
    packing: bool = False
    pad_to_multiple_of: int = 1
    """Half precision's matrix products are prepared anew for each shape: few shapes, little preparing."""

    def fits(self, lengths: Sequence[int]) -> bool:
        return len(lengths) <= 1 or (
            self.num_tokens(lengths) <= self.max_tokens
            and (self.max_examples is None or len(lengths) <= self.max_examples)
        )

    def num_tokens(self, lengths: Sequence[int]) -> int:
        """Of examples of these lengths, whose last tokens are not read."""
        return sum(lengths) - len(lengths) if self.packing else self.width(lengths) * len(lengths)

    def width(self, lengths: Sequence[int]) -> int:
        return -(-(max(lengths, default=1) - 1) // self.pad_to_multiple_of) * self.pad_to_multiple_of

    def hold(self, examples: Sequence[Encoded]) -> "Batch":
        return pack(examples) if self.packing else pad(examples, self.width([len(e.ids) for e in examples]))


def split_step(lengths: Sequence[int], holding: Holding, *, num_processes: int = 1) -> list[list[list[int]]]:
    """Share out one step's examples: as few micro-batches as fit, the same number for every process.

    -> [micro-batch][process]: positions in `lengths`. A process without an example gets [].
    """
    # Shorter beside shorter: less padding.
    ordered = sorted(range(len(lengths)), key=lambda position: lengths[position])
    for num_rounds in range(1, len(ordered) + 1):
        num_parts = num_rounds * num_processes
        if holding.packing:
            parts = [ordered[part::num_parts] for part in range(num_parts)]
        else:
            cuts = [len(ordered) * part // num_parts for part in range(num_parts + 1)]
            parts = [ordered[a:b] for a, b in itertools.pairwise(cuts)]
        if all(holding.fits([lengths[position] for position in part]) for part in parts):
            return [parts[i : i + num_processes] for i in range(0, num_parts, num_processes)]
    raise AssertionError("one example always fits")


def most_held(
    lengths: np.ndarray,
    num_targets: np.ndarray,
    steps: Sequence[Sequence[int]],
    holding: Holding,
    *,
    num_processes: int,
) -> tuple[int, int]:
    """The most tokens (padding included) and the most targets that any process holds at once."""
    most_tokens = most_targets = 0
    for rows in steps:
        step_lengths, step_targets = lengths[rows], num_targets[rows]
        for parts in split_step(step_lengths.tolist(), holding, num_processes=num_processes):
            for part in filter(None, parts):
                most_tokens = max(most_tokens, holding.num_tokens(step_lengths[part].tolist()))
                most_targets = max(most_targets, int(step_targets[part].sum()))
    return most_tokens, most_targets


class Batch(NamedTuple):
    """What one forward pass takes."""

    ids: Tensor
    """(batch, seq), padded on the right; packed: (1, tokens), examples end to end. Without the last of each example."""
    targets: Tensor
    """Like ids: the token that comes next; IGNORED where it is not to be predicted."""
    lengths: list[int] | None = None
    """Packed: tokens of each example."""

    def to(self, device: torch.device) -> "Batch":
        return Batch(self.ids.to(device), self.targets.to(device), self.lengths)


def micro_batches(
    examples: Sequence[Encoded], holding: Holding, *, num_processes: int = 1, process_index: int = 0
) -> Iterator[Batch]:
    """This process's share of one optimiser step."""
    shortest = min(examples, key=lambda example: len(example.ids))
    # Processes go through the model together; one without an example gets one that counts for nothing.
    nothing = Encoded(shortest.ids, [IGNORED] * len(shortest.ids))
    for parts in split_step([len(e.ids) for e in examples], holding, num_processes=num_processes):
        held = [examples[position] for position in parts[process_index]] or [nothing]
        yield holding.hold(held)


def pad(examples: Sequence[Encoded], width: int | None = None) -> Batch:
    width = width or max(len(example.ids) for example in examples) - 1
    ids = torch.zeros(len(examples), width, dtype=torch.long)
    targets = torch.full((len(examples), width), IGNORED)
    for row, example in enumerate(examples):
        num_read = len(example.ids) - 1
        ids[row, :num_read] = torch.tensor(example.ids[:-1])
        targets[row, :num_read] = torch.tensor(example.labels[1:])
    return Batch(ids, targets)


def pack(examples: Sequence[Encoded]) -> Batch:
    ids = torch.cat([torch.tensor(example.ids[:-1]) for example in examples]).long()
    targets = torch.cat([torch.tensor(example.labels[1:]) for example in examples]).long()
    return Batch(ids[None], targets[None], [len(example.ids) - 1 for example in examples])


def by_length(examples: Sequence[Encoded], holding: Holding) -> Iterator[Batch]:
    """Every example once, in batches of similar length: for validation."""
    ordered = sorted(examples, key=lambda example: len(example.ids))
    batch: list[Encoded] = []
    for example in ordered:
        if not holding.fits([len(e.ids) for e in [*batch, example]]):
            yield holding.hold(batch)
            batch = []
        batch.append(example)
    yield holding.hold(batch)
