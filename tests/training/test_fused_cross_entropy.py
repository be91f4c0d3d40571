"""The loss at the head: that of the ordinary way, in value and gradients, whatever is left out or put in its place."""

import pytest
import torch
from torch.nn.functional import cross_entropy, linear
from toy_examples import LIMITS, examples
from toy_models import load_for_batches, toy_olmo

from open_instruct.training.adapters import add_adapters
from open_instruct.training.batches import micro_batches
from open_instruct.training.cpu_kernels import fused_cross_entropy
from open_instruct.training.cpu_kernels.fused_cross_entropy import summed_cross_entropy
from open_instruct.training.loss import TargetLoss, use_cpu_kernels
from open_instruct.training.steps import MicroBatchLimits


@pytest.fixture
def make_model(tmp_path):
    def make(**config):
        # Wide weights: what is left out would show.
        toy_olmo(tmp_path, initializer_range=0.3, **config)
        return lambda packing=False: load_for_batches(tmp_path, packing=packing)

    return make


def gradients(
    loss: TargetLoss, limits: MicroBatchLimits, *, half: bool = False
) -> tuple[float, dict[str, torch.Tensor]]:
    total = 0.0
    for batch in micro_batches(examples(), limits):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            value = loss(*batch)
        value.backward()
        total += value.item()
    return total, {name: p.grad for name, p in loss.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("numbers_in_cache", [1, 700, 2**19])
@pytest.mark.parametrize("half", [False, True])
def test_loss_and_gradients_are_those_of_cross_entropy(half, numbers_in_cache, monkeypatch):
    monkeypatch.setattr(fused_cross_entropy, "NUMBERS_IN_CACHE", numbers_in_cache)
    torch.manual_seed(0)
    found, expected = [], []
    hidden, weight, targets = torch.randn(7, 16), torch.randn(300, 16), torch.randint(0, 300, (7,))
    for results, loss_of in (
        (found, summed_cross_entropy),
        (expected, lambda h, w, t: cross_entropy(linear(h, w).float(), t, reduction="sum")),
    ):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = loss_of(h, w, targets)
        (loss * 0.3).backward()
        results += [loss, h.grad, w.grad]
    # In bfloat16 both round the same products; the order of a sum may differ.
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2 if half else 1e-5, atol=1e-2 if half else 1e-5)


def test_rows_after_the_targets_count_for_nothing():
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(7, 16), torch.randn(300, 16), torch.randint(0, 300, (5,))
    results = []
    for num_rows in (5, 7):
        h, w = hidden[:num_rows].clone().requires_grad_(), weight.clone().requires_grad_()
        loss = summed_cross_entropy(h, w, targets)
        loss.backward()
        assert h.grad is not None
        assert not h.grad[5:].any()
        results.append((loss, h.grad[:5], w.grad))
    torch.testing.assert_close(*results)


def test_a_target_that_is_next_to_impossible_has_a_finite_loss():
    hidden, weight = torch.tensor([[1.0]]), torch.tensor([[0.0], [-200.0]], requires_grad=True)
    loss = summed_cross_entropy(hidden, weight, torch.tensor([1]))
    loss.backward()
    assert loss.item() == pytest.approx(200)
    assert weight.grad is not None
    assert weight.grad.tolist() == [[1], [-1]]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", LIMITS)
def test_cpu_kernels_change_no_gradient(make_model, name, tied, half):
    limits, load = LIMITS[name], make_model(tie_word_embeddings=tied)
    ordinary, sparing = (TargetLoss(load(packing=limits.packing)) for _ in range(2))
    use_cpu_kernels(sparing)
    assert sparing.is_fused
    loss, expected = gradients(ordinary, limits, half=half)
    found_loss, found = gradients(sparing, limits, half=half)
    assert found_loss == pytest.approx(loss, rel=1e-5)
    assert found.keys() == expected.keys()
    for parameter, gradient in expected.items():
        assert not found[parameter].is_sparse
        scale = gradient.abs().max()
        assert (found[parameter] - gradient).abs().max() <= (1e-2 if half else 1e-5) * scale, parameter


def test_adapters_leave_the_head_to_itself(make_model):
    model = add_adapters(make_model(tie_word_embeddings=True)(), rank=2, alpha=2, dropout=0.0)
    loss = TargetLoss(model)
    use_cpu_kernels(loss)
    assert not loss.is_fused
    _, found = gradients(loss, LIMITS["one batch"])
    assert found
    assert all("lora" in name for name in found)
