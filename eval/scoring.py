"""Log-likelihood of whole continuations: the one way in which this project asks a model what it finds likely.

A request is one row: its context once, then its continuations side by side, none of which sees another.

    row          c0 c1 c2 | a0 a1 | b0 b1        (the last token of a continuation predicts nothing: it is left out)
    position     0  1  2    3  4    3  4
    a1 attends   c0 c1 c2   a0 a1
    b1 attends   c0 c1 c2           b0 b1

The vocabulary is projected only at the positions that predict a token of a continuation.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from transformers import PreTrainedModel

from open_instruct.records import UserError

MAX_MASK_ELEMENTS = 2**26
"""Bound on batch x row length x row length: 256 MiB in fp32."""
MAX_LOGIT_ELEMENTS = 2**23
"""Bound on projected positions x vocabulary: 32 MiB in fp32, which is quicker on a CPU than more at once."""
RESHAPED_LOGITS = {"final_logit_softcapping": None, "logit_scale": 1.0, "logits_scaling": 1.0}
"""Config fields by which a model changes the output embedding's logits, and the value that changes nothing."""


@dataclass(frozen=True)
class Request:
    """Token ids of a context and of the continuations that are scored after it. None of them may be empty."""

    context: list[int]
    continuations: list[list[int]]


@dataclass(frozen=True)
class Score:
    sum_logits: float
    """Log-likelihood of the continuation's tokens given the context, in nats."""
    num_tokens: int
    is_greedy: bool
    """Whether no token has a likelier rival, so that greedy decoding would write this continuation."""


@dataclass(frozen=True)
class Row:
    """A request, or some of the continuations of one that is too long for a row."""

    request: int
    first: int
    """Index of `continuations[0]` within the request."""
    context: list[int]
    continuations: list[list[int]]

    @property
    def num_tokens(self) -> int:
        return len(self.context) + sum(len(tokens) - 1 for tokens in self.continuations)


@torch.inference_mode()
def score(
    model: PreTrainedModel,
    requests: Sequence[Request],
    *,
    max_batch_tokens: int = 20480,
    progress: Callable[[int], object] | None = None,
) -> list[list[Score]]:
    """Scores of every continuation of every request, in the order of `requests`.

    A continuation's score does not depend on what else is in the batch, beyond float noise. Contexts are taken as they
    are: to cut long ones is the caller's job. `progress` is called after each batch with the number of requests begun.

    Raises UserError for empty or foreign token ids, for a model that cannot take a tree mask, and for NaN logits.
    """
    check_requests(requests, vocab_size=cast(torch.nn.Embedding, model.get_input_embeddings()).num_embeddings)
    rows = [row for index, request in enumerate(requests) for row in split_rows(index, request, max_batch_tokens)]
    rows.sort(key=lambda row: -row.num_tokens)
    check_model(model, longest=rows[0].num_tokens if rows else 0)
    was_training = model.training
    model.eval()
    scores: list[list[Score | None]] = [[None] * len(request.continuations) for request in requests]
    for batch in batches(rows, max_batch_tokens):
        batch_scores = score_batch(model, batch)
        for row in batch:
            for offset in range(len(row.continuations)):
                scores[row.request][row.first + offset] = next(batch_scores)
        if progress:
            progress(sum(row.first == 0 for row in batch))
    model.train(was_training)
    return [[found for found in of_request if found] for of_request in scores]


def check_requests(requests: Sequence[Request], *, vocab_size: int) -> None:
    for index, request in enumerate(requests):
        parts = [request.context, *request.continuations]
        if not all(parts):
            raise UserError(f"request {index} has an empty context or continuation; give an empty context as [EOS]")
        largest = max(max(part) for part in parts)
        if largest >= vocab_size:
            raise UserError(
                f"request {index} has token id {largest}, the model knows {vocab_size} tokens; "
                "use the tokenizer that lies in the model's folder"
            )


def check_model(model: PreTrainedModel, *, longest: int) -> None:
    """Raises UserError where a tree mask, or projecting only some positions, would change the model's answers."""
    attention = getattr(model.config, "_attn_implementation", "sdpa")
    if attention not in ("sdpa", "eager"):
        raise UserError(f"attention is {attention}, which takes no tree mask; load the model with attention 'sdpa'")
    window = getattr(model.config, "sliding_window", None)
    if window and longest > window:
        raise UserError(f"the model attends to {window} tokens, a row has {longest}; lower the maximum length")
    for name, neutral in RESHAPED_LOGITS.items():
        value = getattr(model.config, name, neutral)
        if value not in (None, neutral):
            raise UserError(f"{name} is {value} in the model's config; models that reshape logits cannot be scored yet")


def split_rows(index: int, request: Request, max_tokens: int) -> Iterator[Row]:
    """One row, or several where the continuations do not fit side by side under `max_tokens` and the mask's bound."""
    room = min(max_tokens, math.isqrt(MAX_MASK_ELEMENTS)) - len(request.context)
    first, used = 0, 0
    for number, tokens in enumerate(request.continuations):
        if number > first and used + len(tokens) - 1 > room:
            yield Row(index, first, request.context, request.continuations[first:number])
            first, used = number, 0
        used += len(tokens) - 1
    if request.continuations:
        yield Row(index, first, request.context, request.continuations[first:])


def batches(rows: Sequence[Row], max_batch_tokens: int) -> Iterator[list[Row]]:
    """Runs of `rows` (longest first) whose padded size keeps both bounds; a row that keeps neither stands alone."""
    batch: list[Row] = []
    for row in rows:
        longest = batch[0].num_tokens if batch else row.num_tokens
        num_padded = (len(batch) + 1) * longest
        if batch and (num_padded > max_batch_tokens or num_padded * longest > MAX_MASK_ELEMENTS):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def score_batch(model: PreTrainedModel, rows: Sequence[Row]) -> Iterator[Score]:
    """Scores of all continuations of `rows`, in order."""
    width = max(row.num_tokens for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    position_ids = torch.zeros_like(ids)
    segments = torch.full_like(ids, -1)  # 0 context, 1.. continuations, -1 padding
    predictors, targets, lengths = [], [], []
    for r, row in enumerate(rows):
        start = len(row.context)
        ids[r, :start] = torch.tensor(row.context)
        position_ids[r, :start] = torch.arange(start)
        segments[r, :start] = 0
        for number, tokens in enumerate(row.continuations, start=1):
            inside = slice(start, start + len(tokens) - 1)
            ids[r, inside] = torch.tensor(tokens[:-1], dtype=torch.long)
            position_ids[r, inside] = torch.arange(len(row.context), len(row.context) + len(tokens) - 1)
            segments[r, inside] = number
            predictors += [
                r * width + position for position in (len(row.context) - 1, *range(inside.start, inside.stop))
            ]
            targets += tokens
            lengths.append(len(tokens))
            start = inside.stop
    hidden = model.base_model(
        input_ids=ids.to(model.device),
        position_ids=position_ids.to(model.device),
        attention_mask=tree_mask(segments.to(model.device), dtype=model.dtype),
        use_cache=False,
    ).last_hidden_state  # (rows, width, hidden)
    predicting = hidden.flatten(0, 1)[torch.tensor(predictors, device=hidden.device)]  # (targets, hidden)
    log_probs, is_top = target_log_probs(model, predicting, torch.tensor(targets, device=hidden.device))
    for log_prob, top in zip(log_probs.split(lengths), is_top.split(lengths), strict=True):
        yield Score(log_prob.sum().item(), len(log_prob), bool(top.all()))


def tree_mask(segments: torch.Tensor, *, dtype: torch.dtype) -> torch.Tensor:
    """(batch, width) segment numbers -> (batch, 1, width, width) additive mask.

    A token sees the context and its own segment up to itself. Padding sees itself, so that no row of the mask is empty,
    and nothing sees padding.
    """
    queries, keys = segments[:, :, None], segments[:, None, :]
    allowed = ((keys == 0) | (keys == queries)).tril()
    return torch.zeros(allowed.shape, dtype=dtype, device=segments.device).masked_fill(
        ~allowed, torch.finfo(dtype).min
    )[:, None]


def target_log_probs(
    model: PreTrainedModel, predicting: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(targets, hidden), (targets,) -> each target's log-probability (float64), and whether it is the most likely.

    Raises UserError where logits are not finite.
    """
    project = cast(torch.nn.Linear, model.get_output_embeddings())
    log_probs, is_top = [], []
    chunk = max(1, MAX_LOGIT_ELEMENTS // project.weight.shape[0])
    for part, wanted in zip(predicting.split(chunk), targets.split(chunk), strict=True):
        logits = project(part).float()  # (chunk, vocabulary)
        log_probs.append(-torch.nn.functional.cross_entropy(logits, wanted, reduction="none"))
        if not log_probs[-1].isfinite().all():
            raise UserError("the model gives logits that are not finite; its weights are broken, or overflow in fp16")
        is_top.append(logits.gather(-1, wanted[:, None])[:, 0] == logits.amax(-1))
    return torch.cat(log_probs).double().cpu(), torch.cat(is_top).cpu()
