"""Steps and batches: micro-batches change no loss, no gradient and no step, and packed examples are independent."""

import numpy as np
import pytest
import torch
from devices import on_cpu
from hypothesis import given
from hypothesis import strategies as st
from toy_examples import LENGTHS, LIMITS, examples
from toy_models import load_for_batches, toy_olmo
from transformers import AutoModelForCausalLM

from open_instruct.data.encode import IGNORED, Encoded
from open_instruct.training.attention import packed_arguments
from open_instruct.training.batches import collate, micro_batches, validation_batches
from open_instruct.training.loss import TargetLoss
from open_instruct.training.steps import MicroBatchLimits, largest_micro_batch, split_step, step_rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("model")
    # Large weights: a wrong position or neighbour would show.
    toy_olmo(place, initializer_range=0.3, num_key_value_heads=2)
    return place


def loss_and_gradients(
    folder, limits: MicroBatchLimits, device: torch.device, *, half: bool
) -> tuple[float, dict[str, torch.Tensor]]:
    """-> nats per target; gradients on the CPU"""
    model = TargetLoss(load_for_batches(folder, packing=limits.packing)).to(device)
    total = torch.zeros((), device=device)
    for batch in micro_batches(examples(), limits):
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss = model(*batch.to(device))
        loss.backward()
        total += loss.detach()
    num_targets = sum(example.num_targets for example in examples())
    gradients = {n: p.grad.cpu() / num_targets for n, p in model.named_parameters() if p.grad is not None}
    return total.item() / num_targets, gradients


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", LIMITS)
def test_micro_batches_change_losses_and_gradients_by_rounding_only(folder, name, half, device):
    with on_cpu():
        loss, gradients = loss_and_gradients(folder, LIMITS["one per batch"], torch.device("cpu"), half=False)
    found, found_gradients = loss_and_gradients(folder, LIMITS[name], device, half=half)
    assert found == pytest.approx(loss, rel=1e-3 if half else 1e-5)
    assert found_gradients.keys() == gradients.keys()
    for parameter, gradient in gradients.items():
        # Measured on a CPU: 0.04 in bfloat16.
        difference = (found_gradients[parameter] - gradient).norm() / gradient.norm()
        assert difference < (0.1 if half else 1e-4), parameter


@pytest.mark.parametrize("changed", range(len(LENGTHS)))
def test_changing_a_packed_example_leaves_the_logits_of_the_others_identical(folder, changed):
    model = load_for_batches(folder, packing=True)
    before, after = examples(), examples()
    after[changed] = Encoded([(token + 1) % 300 for token in after[changed].ids], after[changed].labels)
    logits = [packed_logits(model, packed) for packed in (before, after)]
    for position, (one, other) in enumerate(zip(*logits, strict=True)):
        assert torch.equal(one, other) == (position != changed)


@torch.no_grad()
def packed_logits(model, packed: list[Encoded]) -> tuple[torch.Tensor, ...]:
    """Logits of each example."""
    batch = collate(packed, packing=True)
    assert batch.lengths is not None
    logits = model(input_ids=batch.ids, use_cache=False, **packed_arguments(batch)).logits
    return logits[0].split(batch.lengths)


def test_packed_logits_equal_those_of_each_example_alone(folder):
    packed = packed_logits(load_for_batches(folder, packing=True), examples())
    alone = AutoModelForCausalLM.from_pretrained(folder).eval()
    for example, logits in zip(examples(), packed, strict=True):
        torch.testing.assert_close(logits, alone(torch.tensor([example.ids[:-1]])).logits[0], atol=1e-5, rtol=1e-5)


def test_targets_are_the_next_tokens_of_the_same_example():
    made = [Encoded([1, 2, 3], [1, IGNORED, 3]), Encoded([4, 5], [4, 5])]
    packed = collate(made, packing=True)
    assert packed.ids.tolist() == [[1, 2, 4]]
    assert (packed.targets.tolist(), packed.places.tolist()) == ([3, 5], [1, 2])
    assert packed.lengths == [2, 1]
    assert packed.position_ids is not None
    assert packed.starts is not None
    assert (packed.position_ids.tolist(), packed.starts.tolist()) == ([[0, 1, 0]], [0, 2, 3])
    padded = collate(made, packing=False)
    assert padded.ids.tolist() == [[1, 2], [4, 0]]
    assert (padded.targets.tolist(), padded.places.tolist()) == ([3, 5], [1, 2])


def test_steps_depend_on_the_seed_only():
    steps = step_rows(10, num_epochs=2, batch_size=4, seed=1)
    assert steps == step_rows(10, num_epochs=2, batch_size=4, seed=1)
    assert steps != step_rows(10, num_epochs=2, batch_size=4, seed=2)
    rows = [row for step in steps for row in step]
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))
    assert rows[:10] != rows[10:]
    # A run of fewer steps has the first ones of the same order.
    assert step_rows(10, num_epochs=1, batch_size=4, seed=1, max_steps=5) == steps
    assert step_rows(10, num_epochs=9, batch_size=4, seed=1, max_steps=2) == steps[:2]


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=30),
    max_tokens=st.integers(1, 200),
    max_examples=st.none() | st.integers(1, 5),
    packing=st.booleans(),
    num_processes=st.integers(1, 4),
)
def test_a_split_step_contains_every_example_once_and_respects_the_limits(
    lengths, max_tokens, max_examples, packing, num_processes
):
    limits = MicroBatchLimits(max_tokens, max_examples, packing)

    def tokens_of(part: list[int]) -> int:
        return sum(part) - len(part) if packing else (max(part) - 1) * len(part)

    split = split_step(lengths, limits, num_processes=num_processes)
    assert {len(micro_batch) for micro_batch in split} == {num_processes}
    assert sorted(i for micro_batch in split for part in micro_batch for i in part) == list(range(len(lengths)))
    parts = [[lengths[i] for i in part] for micro_batch in split for part in micro_batch if part]
    for part in parts:
        assert len(part) == 1 or tokens_of(part) <= max_tokens
        assert len(part) == 1 or max_examples is None or len(part) <= max_examples
    largest = largest_micro_batch(
        np.array(lengths),
        np.ones(len(lengths), dtype=np.int64),
        [list(range(len(lengths)))],
        limits,
        num_processes=num_processes,
    )
    assert largest == (max(map(tokens_of, parts)), max(map(len, parts)), len(split))


def test_validation_batches_contain_every_target_once():
    made = examples()
    for limits in LIMITS.values():
        batches = list(validation_batches(made, limits))
        num_targets = sum(len(batch.targets) for batch in batches)
        assert num_targets == sum(example.num_targets for example in made)
