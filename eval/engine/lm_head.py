"""From hidden states to words, at the positions that need it only.

On a CPU the output embedding is multiplied slice by slice: logits of all words for some hundred positions leave the
cache before the next step reads them, which costs as much again as computing them.
"""

from collections.abc import Iterator
from typing import cast

import torch
from transformers import PreTrainedModel

from open_instruct.common.errors import UserError

SLICE_WORDS = 2048
SLICE_POSITIONS = 512
"""Positions and words that are multiplied at once on a CPU: 4 MiB of logits."""
MAX_LOGIT_ELEMENTS = 2**26
"""Positions x words elsewhere: 256 MiB in fp32."""
RESHAPED_LOGITS = {"final_logit_softcapping": None, "logit_scale": 1.0, "logits_scaling": 1.0}
"""Config fields by which a model changes the output embedding's logits, and the value that changes nothing."""


def output_embedding(model: PreTrainedModel) -> torch.nn.Linear:
    return cast(torch.nn.Linear, model.get_output_embeddings())


def check_head(model: PreTrainedModel) -> None:
    """Raises UserError for a model whose logits are not those of its output embedding."""
    for name, neutral in RESHAPED_LOGITS.items():
        value = getattr(model.config, name, neutral)
        if value not in (None, neutral):
            raise UserError(f"{name} is {value} in the model's config; models that reshape logits cannot be asked yet")


def target_log_probs(
    model: PreTrainedModel, hidden: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(positions, hidden); (targets,) the position that predicts each target; (targets,) token ids.

    -> each target's log-probability (float64), and whether no token is likelier.  Raises UserError where logits are not
    finite.
    """
    log_probs = torch.empty(len(targets), device=hidden.device)
    is_top = torch.empty(len(targets), dtype=torch.bool, device=hidden.device)
    step = block_positions(model)
    for first in range(0, len(hidden), step):
        inside = ((rows >= first) & (rows < first + step)).nonzero()[:, 0]
        of_block = block_log_probs(model, hidden[first : first + step], rows[inside] - first, targets[inside])
        log_probs[inside], is_top[inside] = of_block
    return log_probs.double().cpu(), is_top.cpu()


def block_log_probs(
    model: PreTrainedModel, hidden: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    found = torch.empty(len(targets), device=hidden.device)  # logits of the targets
    maxima, sums = [], []
    for first, logits in sliced_logits(model, hidden):
        inside = ((targets >= first) & (targets < first + logits.shape[-1])).nonzero()[:, 0]
        found[inside] = logits[rows[inside], targets[inside] - first]
        maxima.append(logits.amax(-1))
        sums.append(logits.sub_(maxima[-1][:, None]).exp_().sum(-1))
    by_slice = torch.stack(maxima)  # (slices, positions)
    top = by_slice.amax(0)
    total = ((by_slice - top).exp() * torch.stack(sums)).sum(0).log() + top  # (positions,)
    log_probs = found - total[rows]
    if not log_probs.isfinite().all():
        raise UserError("the model gives logits that are not finite; its weights are broken, or overflow in fp16")
    return log_probs, found == top[rows]


def most_likely(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """(rows, hidden) -> (rows,) token ids, the first of equals.  Raises UserError for NaN logits."""
    firsts, slices = zip(*sliced_logits(model, hidden), strict=True)
    values, winners = torch.stack([logits.amax(-1) for logits in slices]).max(0)
    refuse_nan(values)
    tokens = torch.empty_like(winners)
    for number in winners.unique().tolist():
        of_slice = (winners == number).nonzero()[:, 0]
        tokens[of_slice] = slices[number][of_slice].argmax(-1) + firsts[number]
    return tokens


def all_logits(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """(rows, hidden) -> (rows, vocabulary) in float32.  Raises UserError for NaN logits."""
    logits = torch.cat([logits for _, logits in sliced_logits(model, hidden)], dim=-1)
    refuse_nan(logits)
    return logits


def refuse_nan(values: torch.Tensor) -> None:
    if values.isnan().any():
        raise UserError("the model gives logits that are NaN; its weights are broken, or overflow in fp16")


def sliced_logits(model: PreTrainedModel, hidden: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """(positions, hidden) -> the id of a slice's first word, and its logits (positions, words) in float32."""
    head = output_embedding(model)
    num_words = head.weight.shape[0]
    step = SLICE_WORDS if hidden.device.type == "cpu" else num_words
    for first in range(0, num_words, step):
        bias = None if head.bias is None else head.bias[first : first + step]
        yield first, torch.nn.functional.linear(hidden, head.weight[first : first + step], bias).float()


def block_positions(model: PreTrainedModel) -> int:
    if model.device.type == "cpu":
        return SLICE_POSITIONS
    return max(1, MAX_LOGIT_ELEMENTS // output_embedding(model).weight.shape[0])
