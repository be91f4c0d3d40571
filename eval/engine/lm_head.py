"""LM head: log-probabilities and greedy tokens from last hidden states, only at the positions that need them.

On a CPU the vocabulary is processed in slices: the logits of the whole vocabulary at some hundred positions would leave
the cache before the next step reads them, which costs as much as computing them.
"""

from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from transformers import PreTrainedModel

from open_instruct.common.errors import UserError

SLICE_TOKENS = 2048
SLICE_POSITIONS = 512
"""Vocabulary entries and positions of one matrix product on a CPU: 4 MiB of logits."""
MAX_LOGIT_ELEMENTS = 2**26
"""Positions x vocabulary of one matrix product on other devices: 256 MiB in float32."""


def lm_head(model: PreTrainedModel) -> torch.nn.Linear:
    return cast(torch.nn.Linear, model.get_output_embeddings())


def target_log_probs(
    model: PreTrainedModel, hidden: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each target, and whether it is the most likely token.  -> (targets,) each, on the device

    hidden: (positions, hidden); rows: (targets,) position that predicts each target; targets: (targets,) token ids.
    Nothing here waits for a GPU: `check_finite` is for later.
    """
    target_logits = torch.zeros(len(targets), device=hidden.device)
    tops, log_totals = [], []
    for first_row in range(0, len(hidden), positions_per_block(model)):
        maxima, sums = [], []
        for first_token, logits in logit_slices(model, hidden[first_row : first_row + positions_per_block(model)]):
            target_logits = entries_inside(logits, rows - first_row, targets - first_token, outside=target_logits)
            maxima.append(logits.amax(-1))
            sums.append(logits.sub_(maxima[-1][:, None]).exp_().sum(-1))
        by_slice = torch.stack(maxima)  # (slices, positions)
        top = by_slice.amax(0)
        tops.append(top)
        log_totals.append(((by_slice - top).exp() * torch.stack(sums)).sum(0).log() + top)  # (positions,)
    return target_logits - torch.cat(log_totals)[rows], target_logits == torch.cat(tops)[rows]


def entries_inside(
    matrix: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, *, outside: torch.Tensor
) -> torch.Tensor:
    """The entries of a matrix at these rows and columns; where there is none, those of `outside`.  (entries,)"""
    last_row, last_column = matrix.shape[0] - 1, matrix.shape[1] - 1
    nearest_rows, nearest_columns = rows.clamp(0, last_row), columns.clamp(0, last_column)
    is_inside = (rows == nearest_rows) & (columns == nearest_columns)
    return torch.where(is_inside, matrix[nearest_rows, nearest_columns], outside)


def check_finite(log_probs: np.ndarray) -> None:
    if not np.isfinite(log_probs).all():
        raise UserError("the model gives logits that are not finite; its weights are broken, or overflow in float16")


def positions_per_block(model: PreTrainedModel) -> int:
    if model.device.type == "cpu":
        return SLICE_POSITIONS
    return max(1, MAX_LOGIT_ELEMENTS // lm_head(model).weight.shape[0])


def greedy_tokens(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """Most likely tokens, the first of equals; -1 where logits are NaN.  (rows, hidden) -> (rows,)"""
    firsts, slices = zip(*logit_slices(model, hidden), strict=True)
    # The maximum of every slice, then the argmax of one slice: faster than one argmax over the vocabulary.
    values, winners = torch.stack([logits.amax(-1) for logits in slices]).max(0)
    if len(slices) == 1:
        return unless_nan(slices[0].argmax(-1), values)
    tokens = torch.empty_like(winners)
    for number in winners.unique().tolist():
        rows = (winners == number).nonzero()[:, 0]
        tokens[rows] = slices[number][rows].argmax(-1) + firsts[number]
    return unless_nan(tokens, values)


def full_logits(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """Logits in float32.  (rows, hidden) -> (rows, vocabulary)"""
    return torch.cat([logits for _, logits in logit_slices(model, hidden)], dim=-1)


def unless_nan(tokens: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The tokens, and -1 where a value is NaN, for `check_token`.  (rows,), (rows,) -> (rows,)"""
    return tokens.masked_fill(values.isnan(), -1)


def check_token(token: int) -> None:
    """Raises UserError for a token of NaN logits."""
    if token < 0:
        raise UserError("the model gives logits that are NaN; its weights are broken, or overflow in float16")


def logit_slices(model: PreTrainedModel, hidden: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """First token id of each slice of the vocabulary, and the slice's logits (positions, tokens) in float32."""
    head = lm_head(model)
    vocab_size = head.weight.shape[0]
    step = SLICE_TOKENS if hidden.device.type == "cpu" else vocab_size
    for first in range(0, vocab_size, step):
        bias = None if head.bias is None else head.bias[first : first + step]
        yield first, torch.nn.functional.linear(hidden, head.weight[first : first + step], bias).float()
