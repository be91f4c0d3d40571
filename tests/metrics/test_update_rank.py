"""Ranks of updates whose singular values are known."""

import math

import pytest
import torch

from eval.metrics.update_rank import UpdateRank, update_rank


def update_with(singular_values, rows=40, columns=70):
    """A random matrix with these singular values."""
    torch.manual_seed(0)
    left, right = (
        torch.linalg.qr(torch.randn(n, len(singular_values), dtype=torch.float64))[0] for n in (rows, columns)
    )
    return left @ torch.diag(torch.tensor(singular_values, dtype=torch.float64)) @ right.T


def tuned_to(dtype, *shape):
    torch.manual_seed(1)
    return (0.02 * torch.randn(shape)).to(dtype)


@pytest.mark.parametrize("shape", [(40, 70), (70, 40), (40, 40)])
def test_equal_singular_values_have_their_number_as_every_rank(shape):
    found = update_rank(update_with([0.1] * 5, *shape), tuned_to(torch.float32, *shape))
    assert found == (5, pytest.approx(5), pytest.approx(5))


def test_unequal_singular_values_have_the_ranks_computed_by_hand():
    found = update_rank(update_with([0.4, 0.4, 0.2]), tuned_to(torch.float32, 40, 70))
    assert found.rank == 3
    # Shares .4, .4 and .2; squares .16, .16 and .04.
    assert found.effective_rank == pytest.approx(math.exp(-0.8 * math.log(0.4) - 0.2 * math.log(0.2)))
    assert found.stable_rank == pytest.approx(0.36 / 0.16)


def test_a_full_update_has_the_singular_values_of_an_svd():
    update = update_with([0.5**i for i in range(30)])
    values = torch.linalg.svdvals(update)
    shares = values / values.sum()
    found = update_rank(update, tuned_to(torch.float64, 40, 70))
    assert found.effective_rank == pytest.approx(math.exp(-(shares[:30] * shares[:30].log()).sum()), rel=1e-5)


def test_no_update_has_no_rank():
    assert update_rank(torch.zeros(4, 6).double(), tuned_to(torch.float32, 4, 6)) == UpdateRank(0, None, None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("outlier", [1, 50])
def test_rounding_to_the_stored_type_adds_no_rank(dtype, outlier):
    base = tuned_to(torch.float32, 200, 300)
    base[:, 7] *= outlier  # some columns of real models are far larger
    update = update_with([1.0, 1.0, 1.0], 200, 300)
    for change, expected in ((update, 3), (torch.zeros_like(update), 0)):
        tuned = (base.double() + change).to(dtype)
        found = update_rank(tuned.double() - base.double(), tuned)
        assert found.rank == expected
        # Rounding is a twentieth of this update.
        assert found.effective_rank == (pytest.approx(3, rel=0.01) if expected else None)
