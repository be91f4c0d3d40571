"""Rank of a weight update: in how many directions fine-tuning moved a matrix.

Of the singular values s of the update, without those that rounding could have made:

    rank            their number
    effective rank  exp(entropy of s / sum(s)), Roy and Vetterli 2007, "The effective rank"
    stable rank     sum(s**2) / max(s)**2, Rudelson and Vershynin 2007, "Sampling from large matrices"
"""

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class UpdateRank(NamedTuple):
    rank: int
    effective_rank: float | None
    """None, as the stable rank, where the update is zero or within rounding."""
    stable_rank: float | None


def update_rank(update: "Tensor", tuned: "Tensor") -> UpdateRank:
    """Rank of the update of one matrix, on the GPU where there is one.

    update: (rows, columns), float64, fine-tuned minus base; tuned: the same shape, as the fine-tuned model stores it.
    """
    values = singular_values(update)
    values = values[values > rounding(tuned)]
    if not len(values):
        return UpdateRank(0, None, None)
    shares = values / values.sum()
    entropy = -float((shares * shares.log()).sum())
    return UpdateRank(len(values), math.exp(entropy), float((values / values.max()).square().sum()))


def singular_values(matrix: "Tensor") -> "Tensor":
    """(k,) singular values in float64, in ascending order, without those that are zero within float64's precision.

    They are roots of the eigenvalues of the Gram matrix of the shorter side: a third of the time of an SVD, and the
    only memory is that matrix, also of an embedding of a large vocabulary.
    """
    import torch

    on_device = matrix.to("cuda" if torch.cuda.is_available() else "cpu")
    tall = on_device if len(on_device) >= on_device.shape[1] else on_device.T
    squares = torch.linalg.eigvalsh(tall.T @ tall).cpu()
    # The eigenvalues' error is within that share of the largest.
    return squares[squares > squares[-1] * len(squares) * torch.finfo(torch.float64).eps].sqrt()


def rounding(tuned: "Tensor") -> float:
    """Largest singular value that rounding the fine-tuned weights to their stored type could have made.

    A random matrix has no larger one than its longest row and its longest column together (Bandeira and van Handel
    2016), and rounding changes a weight by at most half the type's precision.
    """
    import torch

    longest = [float(torch.linalg.vector_norm(tuned, dim=dim, dtype=torch.float64).max()) for dim in (0, 1)]
    return torch.finfo(tuned.dtype).eps / 2 * sum(longest)
