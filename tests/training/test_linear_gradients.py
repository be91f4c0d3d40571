"""Gradients that linear layers write themselves are autograd's, and on a GPU they are not rounded to half precision."""

import copy

import pytest
import torch
from torch import nn

from open_instruct.training.linear_gradients import write_linear_gradients


class Toy(nn.Module):
    """A linear layer that is used twice, one with a bias, one that is frozen, and a head tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(32, 16)
        self.twice, self.biased = nn.Linear(16, 16, bias=False), nn.Linear(16, 16)
        self.frozen, self.head = nn.Linear(16, 16).requires_grad_(False), nn.Linear(16, 32, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.twice(self.twice(self.embedding(ids)).tanh())
        return self.head(self.frozen(self.biased(x)).tanh()).float().square().sum()


BATCHES = [torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[7, 1, 1]])]


def gradients(model: nn.Module) -> dict[str, torch.Tensor | None]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("has_memory", [False, True])
def test_gradients_of_two_micro_batches_are_those_of_autograd(device, has_memory):
    plain = Toy().to(device)
    written = copy.deepcopy(plain)
    weights = [layer.weight for layer in (written.twice, written.biased)]
    memory = {weight: torch.full_like(weight, float("nan")) for weight in weights} if has_memory else {}
    write_linear_gradients(written, memory)
    for batch in BATCHES:
        plain(batch.to(device)).backward()
        written(batch.to(device)).backward()
    for name, expected in gradients(plain).items():
        found = gradients(written)[name]
        assert (found is None) == (expected is None) == ("frozen" in name)
        if expected is not None:
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert all(weight.grad is memory[weight] for weight in memory)


def test_without_gradients_nothing_is_written():
    model = Toy()
    expected = model(BATCHES[0])
    write_linear_gradients(model, {})
    with torch.no_grad():
        assert torch.equal(model(BATCHES[0]), expected)
    assert set(gradients(model).values()) == {None}


def test_one_vector_is_a_batch_of_one():
    plain = nn.Linear(4, 3)
    written = copy.deepcopy(plain)
    write_linear_gradients(written, {})
    for layer in (plain, written):
        layer(torch.ones(4)).sum().backward()
    assert gradients(written).keys() == gradients(plain).keys()
    for name, expected in gradients(plain).items():
        torch.testing.assert_close(gradients(written)[name], expected)


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=pytest.mark.gpu)], indirect=True)
def test_in_half_precision_gradients_are_summed_and_stored_in_float32(device):
    layer = nn.Linear(64, 64, bias=False, device=device)
    x, d_out = (torch.randn(100, 64, device=device).bfloat16() for _ in range(2))
    write_linear_gradients(layer, {})
    for _ in range(2):
        with torch.autocast("cuda", torch.bfloat16):
            layer(x).backward(d_out)
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, 2 * d_out.float().T @ x.float(), rtol=1e-5, atol=1e-4)
