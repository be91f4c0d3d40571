"""Batches: which step an example belongs to never depends on how it is held, and held together none sees another."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_examples import HOLDINGS, LENGTHS, examples
from toy_models import toy_olmo
from transformers import AutoModelForCausalLM

from open_instruct.data.encode import IGNORED, Encoded
from open_instruct.training.batches import (
    Holding,
    by_length,
    micro_batches,
    most_held,
    pack,
    pad,
    split_step,
    step_rows,
)
from open_instruct.training.loss import TargetLoss
from open_instruct.training.model import load_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("model")
    # Wide weights: what stands elsewhere would show.
    toy_olmo(place, initializer_range=0.3, num_key_value_heads=2)
    return place


def loss_and_gradients(folder, holding: Holding) -> tuple[float, dict[str, torch.Tensor]]:
    model = TargetLoss(load_weights(folder, packing=holding.packing, half_precision=False))
    total = torch.zeros(())
    for batch in micro_batches(examples(), holding):
        loss = model(*batch)
        loss.backward()
        total += loss.detach()
    num_targets = sum(example.num_targets for example in examples())
    gradients = {n: p.grad / num_targets for n, p in model.named_parameters() if p.grad is not None}
    return total.item() / num_targets, gradients


@pytest.mark.parametrize("name", HOLDINGS)
def test_losses_and_gradients_agree_to_1e_5_however_examples_are_held(folder, name):
    loss, gradients = loss_and_gradients(folder, HOLDINGS["one at a time"])
    found, found_gradients = loss_and_gradients(folder, HOLDINGS[name])
    assert found == pytest.approx(loss, abs=1e-5)
    assert found_gradients.keys() == gradients.keys()
    for parameter, gradient in gradients.items():
        assert (found_gradients[parameter] - gradient).abs().max() < 1e-5, parameter


@pytest.mark.parametrize("changed", range(len(LENGTHS)))
def test_a_packed_example_does_not_see_its_neighbours(folder, changed):
    model = load_weights(folder, packing=True, half_precision=False).eval()
    before, after = examples(), examples()
    after[changed] = Encoded([(token + 1) % 300 for token in after[changed].ids], after[changed].labels)
    logits = [packed_logits(model, held) for held in (before, after)]
    for position, (one, other) in enumerate(zip(*logits, strict=True)):
        assert torch.equal(one, other) == (position != changed)


@torch.no_grad()
def packed_logits(model, held: list[Encoded]) -> tuple[torch.Tensor, ...]:
    batch = pack(held)
    assert batch.lengths is not None
    positions = torch.cat([torch.arange(length) for length in batch.lengths])[None]
    logits = model(input_ids=batch.ids, position_ids=positions, lengths=batch.lengths, use_cache=False).logits
    return logits[0].split(batch.lengths)


def test_packed_logits_are_those_of_an_example_alone(folder):
    packed = packed_logits(load_weights(folder, packing=True, half_precision=False).eval(), examples())
    alone = AutoModelForCausalLM.from_pretrained(folder).eval()
    for example, logits in zip(examples(), packed, strict=True):
        torch.testing.assert_close(logits, alone(torch.tensor([example.ids[:-1]])).logits[0], atol=1e-5, rtol=1e-5)


def test_each_position_predicts_the_next_of_its_own_example():
    made = [Encoded([1, 2, 3], [1, IGNORED, 3]), Encoded([4, 5], [4, 5])]
    packed = pack(made)
    assert packed.ids.tolist() == [[1, 2, 4]]
    assert packed.targets.tolist() == [[IGNORED, 3, 5]]
    assert packed.lengths == [2, 1]
    padded = pad(made)
    assert padded.ids.tolist() == [[1, 2], [4, 0]]
    assert padded.targets.tolist() == [[IGNORED, 3], [5, IGNORED]]


def test_steps_are_decided_by_the_seed_alone():
    steps = step_rows(10, num_epochs=2, batch_size=4, seed=1)
    assert steps == step_rows(10, num_epochs=2, batch_size=4, seed=1)
    assert steps != step_rows(10, num_epochs=2, batch_size=4, seed=2)
    rows = [row for step in steps for row in step]
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))
    assert rows[:10] != rows[10:]
    # Fewer steps are the first of the same.
    assert step_rows(10, num_epochs=1, batch_size=4, seed=1, max_steps=5) == steps
    assert step_rows(10, num_epochs=9, batch_size=4, seed=1, max_steps=2) == steps[:2]


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=30),
    max_tokens=st.integers(1, 200),
    max_examples=st.none() | st.integers(1, 5),
    packing=st.booleans(),
    multiple=st.sampled_from([1, 8]),
    num_processes=st.integers(1, 4),
)
def test_a_step_is_shared_out_whole_within_its_budget(
    lengths, max_tokens, max_examples, packing, multiple, num_processes
):
    holding = Holding(max_tokens, max_examples, packing, multiple)

    def tokens_of(part: list[int]) -> int:
        if packing:
            return sum(part) - len(part)
        return -(-(max(part) - 1) // multiple) * multiple * len(part)

    shared = split_step(lengths, holding, num_processes=num_processes)
    assert {len(parts) for parts in shared} == {num_processes}
    assert sorted(p for parts in shared for part in parts for p in part) == list(range(len(lengths)))
    held = [[lengths[p] for p in part] for parts in shared for part in parts if part]
    for part in held:
        assert len(part) == 1 or tokens_of(part) <= max_tokens
        assert len(part) == 1 or max_examples is None or len(part) <= max_examples
    num_targets = np.ones(len(lengths), dtype=np.int64)
    most = most_held(np.array(lengths), num_targets, [list(range(len(lengths)))], holding, num_processes=num_processes)
    assert most == (max(map(tokens_of, held)), max(map(len, held)))


def test_rows_are_as_wide_as_they_are_said_to_be():
    assert {batch.ids.shape for batch in micro_batches(examples(), Holding(10_000, pad_to_multiple_of=8))} == {(7, 16)}
    assert {batch.ids.shape[1] for batch in by_length(examples(), Holding(40, pad_to_multiple_of=8))} == {8, 16}


def test_validation_goes_through_every_example_once():
    made = examples()
    for holding in HOLDINGS.values():
        held = list(by_length(made, holding))
        num_targets = sum(int((batch.targets != IGNORED).sum()) for batch in held)
        assert num_targets == sum(example.num_targets for example in made)
