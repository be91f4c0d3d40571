"""Log-likelihood of continuations by the model's own forward pass, for every model that transformers loads.

Each continuation is computed with its whole context, in batches that are padded on the right, or alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from eval.engine.lm_head import check_finite
from eval.engine.prefix_attention import is_out_of_memory
from open_instruct.common.plain_pass import plain_logits

MAX_LOGITS = {"cpu": 2**28, "cuda": 2**30}
"""Positions x vocabulary of one forward pass."""


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
    """Whether every token is the most likely one, so that greedy decoding would generate this continuation."""


@torch.inference_mode()
def padded_scores(
    model: PreTrainedModel,
    requests: Sequence[Request],
    *,
    max_batch_tokens: int,
    max_rows: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> list[list[Score]]:
    """Score every continuation of every request, in the order of `requests`.

    A batch has at most `max_rows` sequences and `max_batch_tokens` tokens, padding included, and fewer where memory
    runs out; a longer sequence is a batch of its own.  Raises UserError for logits that are not finite.
    """
    rows = [(index, number) for index, request in enumerate(requests) for number in range(len(request.continuations))]
    rows.sort(key=lambda row: -len(sequence(requests, row)))
    vocab_size = getattr(model.config.get_text_config(), "vocab_size", 1)
    max_tokens = min(max_batch_tokens, max(1, MAX_LOGITS[model.device.type] // vocab_size))
    scores: list[list[Score | None]] = [[None] * len(request.continuations) for request in requests]
    num_done, begun, was_training = 0, set(), model.training
    model.eval()
    try:
        while num_done < len(rows):
            longest = len(sequence(requests, rows[num_done]))
            size = max(1, min(max_rows or len(rows), max_tokens // longest))
            batch = rows[num_done : num_done + size]
            try:
                found = score_batch(model, [(requests[i].context, requests[i].continuations[n]) for i, n in batch])
            except RuntimeError as error:
                if not is_out_of_memory(error, is_smallest=len(batch) == 1):
                    raise
                max_tokens = longest * len(batch) // 2
                continue
            for (index, number), result in zip(batch, found, strict=True):
                scores[index][number] = result
            num_done += len(batch)
            if progress:
                new = {index for index, _ in batch} - begun
                begun |= new
                progress(len(new))
    finally:
        model.train(was_training)
    return [[result for result in results if result] for results in scores]


def sequence(requests: Sequence[Request], row: tuple[int, int]) -> list[int]:
    """Input tokens of a continuation; its last token predicts nothing."""
    index, number = row
    return requests[index].context + requests[index].continuations[number][:-1]


def score_batch(model: PreTrainedModel, pairs: Sequence[tuple[list[int], list[int]]]) -> list[Score]:
    """Scores of pairs of context and continuation, in one forward pass."""
    texts = [torch.tensor(context + continuation) for context, continuation in pairs]
    ids = pad_sequence([text[:-1] for text in texts], batch_first=True)  # (rows, seq)
    mask = pad_sequence([torch.ones(len(text) - 1, dtype=torch.long) for text in texts], batch_first=True)
    is_padded = not bool(mask.all())
    logits = plain_logits(model, ids.to(model.device), mask.to(model.device) if is_padded else None)
    scores = []
    for row, (context, continuation) in zip(logits, pairs, strict=True):
        predicted = row[len(context) - 1 :][: len(continuation)].float()  # (tokens, vocabulary)
        targets = torch.tensor(continuation, device=row.device)
        log_probs: Tensor = predicted.log_softmax(-1).gather(-1, targets[:, None])[:, 0].double()
        check_finite(log_probs.cpu().numpy())
        is_greedy = bool((predicted.argmax(-1) == targets).all())
        scores.append(Score(log_probs.sum().item(), len(continuation), is_greedy))
    return scores
