"""Encoded examples as tensors: padded or packed micro-batches of a step, and batches for validation."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from open_instruct.common.devices import to_device
from open_instruct.data.encode import IGNORED, Encoded
from open_instruct.training.steps import MicroBatchLimits, split_step


class Batch(NamedTuple):
    """Inputs of one forward pass."""

    ids: Tensor
    """(batch, seq), padded on the right; packed: (1, tokens), one example after the other. Without final tokens."""
    targets: Tensor
    """(targets,) The tokens to predict."""
    places: Tensor
    """(targets,) Place in the flattened ids of the token before each."""
    lengths: list[int] | None = None
    """Packed: number of tokens of each example."""
    position_ids: Tensor | None = None
    """Packed: (1, tokens), from 0 in every example."""
    starts: Tensor | None = None
    """Packed: (examples + 1,) int32, where each example starts, and the end."""

    def to(self, device: torch.device) -> "Batch":
        if self.ids.device.type == device.type:
            return self
        tensors = {name: part for name, part in self._asdict().items() if isinstance(part, Tensor)}
        return self._replace(**{name: to_device(part, device) for name, part in tensors.items()})


def micro_batches(
    examples: Sequence[Encoded], limits: MicroBatchLimits, *, num_processes: int = 1, process_index: int = 0
) -> Iterator[Batch]:
    """Micro-batches of one optimiser step that this process computes."""
    shortest = min(examples, key=lambda example: len(example.ids))
    # All processes run the same number of forward passes: one without an example gets one without targets.
    placeholder = Encoded(shortest.ids, [IGNORED] * len(shortest.ids))
    for micro_batch in split_step([len(e.ids) for e in examples], limits, num_processes=num_processes):
        own = [examples[index] for index in micro_batch[process_index]] or [placeholder]
        yield collate(own, packing=limits.packing)


def validation_batches(examples: Iterable[Encoded], limits: MicroBatchLimits) -> Iterator[Batch]:
    """Every example once, in batches of similar length."""
    batch: list[Encoded] = []
    for example in sorted(examples, key=lambda example: len(example.ids)):
        if not limits.allow([len(e.ids) for e in [*batch, example]]):
            yield collate(batch, packing=limits.packing)
            batch = []
        batch.append(example)
    yield collate(batch, packing=limits.packing)


def collate(examples: Sequence[Encoded], *, packing: bool) -> Batch:
    ids = [as_tensor(example.ids[:-1]) for example in examples]
    targets = [as_tensor(example.labels[1:]) for example in examples]
    if not packing:
        labels = pad_sequence(targets, batch_first=True, padding_value=IGNORED).flatten()
        return Batch(pad_sequence(ids, batch_first=True), *only_targets(labels))
    lengths = [len(tokens) for tokens in ids]
    positions = torch.cat([torch.arange(length) for length in lengths])
    starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    return Batch(torch.cat(ids)[None], *only_targets(torch.cat(targets)), lengths, positions[None], starts)


def only_targets(labels: Tensor) -> tuple[Tensor, Tensor]:
    """(tokens,) next token or IGNORED -> targets and their places, (targets,) each"""
    places = (labels != IGNORED).nonzero()[:, 0]
    return labels[places], places


def as_tensor(tokens: Any) -> Tensor:
    return torch.tensor(tokens, dtype=torch.long)
