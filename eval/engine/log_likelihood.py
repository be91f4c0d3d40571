"""Log-likelihood of continuations given a context, in batches.

Every distinct prefix of the requests' sequences is computed once (prefix_tree.py): the exemplars of an evaluation set,
the context of a request's continuations, or the first tokens that these share. Batches need no padding. The LM head is
applied only at the positions that predict a token of a continuation, once for each position.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from transformers import PreTrainedModel

from eval.engine.lm_head import check_lm_head, target_log_probs
from eval.engine.prefix_attention import TokenStates, forward, is_out_of_memory, prefix_attention
from eval.engine.prefix_tree import PrefixTree, Segment, common_prefix_length
from open_instruct.common.errors import UserError

MAX_BATCH_TOKENS = 4096


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


@dataclass(frozen=True)
class Continuation(Segment):
    """One continuation of a request. Its last token predicts nothing and is not part of the segment."""

    number: int
    """Index within the request."""
    targets: list[int]


@torch.inference_mode()
def score(
    model: PreTrainedModel,
    requests: Sequence[Request],
    *,
    max_batch_tokens: int = MAX_BATCH_TOKENS,
    progress: Callable[[int], object] | None = None,
) -> list[list[Score]]:
    """Score every continuation of every request, in the order of `requests`.

    A forward pass takes at most `max_batch_tokens` tokens, not counting the prefix that it shares with the pass before.
    The bound is halved when a pass runs out of memory. It does not change a score, beyond float noise. Contexts are not
    truncated here. `progress` is called after each pass with the number of requests begun.

    Raises UserError for empty or unknown token ids, a model whose scores prefix sharing would change, and NaN logits.
    """
    check_requests(requests, vocab_size=cast(torch.nn.Embedding, model.get_input_embeddings()).num_embeddings)
    check_model(model, longest=max((sequence_length(request) for request in requests), default=0))
    scores: list[list[Score | None]] = [[None] * len(request.continuations) for request in requests]
    continuations = list(sorted_continuations(requests))
    num_done, cached = 0, TokenStates()
    with prefix_attention(model):
        while num_done < len(continuations):
            tree, batch, predictors = next_batch(continuations, num_done, max_batch_tokens=max_batch_tokens)
            end = num_done + len(batch)
            num_kept = continuations[end].num_shared if end < len(continuations) else 0
            try:
                hidden, kept = forward(model, tree, cached, tree.path[:num_kept])
                batch_scores = score_batch(model, batch, predictors, hidden)
            except RuntimeError as error:
                if not is_out_of_memory(error, is_smallest=len(batch) == 1):
                    raise
                max_batch_tokens = len(tree.ids) // 2
                continue
            for continuation, result in zip(batch, batch_scores, strict=True):
                scores[continuation.request][continuation.number] = result
            if progress:
                begun_before = {continuations[num_done - 1].request} if num_done else set()
                progress(len({continuation.request for continuation in batch} - begun_before))
            num_done, cached = end, kept
    return [[result for result in results if result] for results in scores]


def check_requests(requests: Sequence[Request], *, vocab_size: int) -> None:
    for index, request in enumerate(requests):
        parts = [request.context, *request.continuations]
        if not all(parts):
            raise UserError(f"request {index} has an empty context or continuation; give an empty context as [EOS]")
        largest = max(max(part) for part in parts)
        if largest >= vocab_size:
            raise UserError(
                f"request {index} has token id {largest}, the model has {vocab_size} tokens; "
                "use the tokenizer in the model's folder"
            )


def sequence_length(request: Request) -> int:
    return len(request.context) + max((len(tokens) - 1 for tokens in request.continuations), default=0)


def check_model(model: PreTrainedModel, *, longest: int) -> None:
    """Raises UserError where prefix sharing, or the LM head at some positions only, would change the model's scores."""
    window = getattr(model.config, "sliding_window", None)
    if window and longest > window:
        raise UserError(f"the model attends to {window} tokens, a sequence has {longest}; lower the maximum length")
    check_lm_head(model)


def sorted_continuations(requests: Sequence[Request]) -> Iterator[Continuation]:
    """Every continuation of every request, sorted so that sequences with a common prefix are neighbours."""
    previous: list[int] = []  # the context of the request before
    for index in sorted(range(len(requests)), key=lambda i: requests[i].context):
        context, continuations = requests[index].context, requests[index].continuations
        num_shared, tail = common_prefix_length(previous, context), None
        for number in sorted(range(len(continuations)), key=continuations.__getitem__):
            ids = continuations[number][:-1]
            if tail is not None:
                num_shared = len(context) + common_prefix_length(tail, ids)
            yield Continuation(index, num_shared, (context + ids)[num_shared:], number, continuations[number])
            previous, tail = context, ids


def next_batch(
    continuations: Sequence[Continuation], first: int, *, max_batch_tokens: int
) -> tuple[PrefixTree, list[Continuation], list[int]]:
    """As many continuations from `first` on as fit; one that alone exceeds the bound is a batch of its own.

    -> their tree, the continuations, and for each of their targets the index of the token that predicts it
    """
    tree, batch, predictors = PrefixTree(continuations[first].num_shared), [], []
    for number in range(first, len(continuations)):
        continuation = continuations[number]
        if batch and len(tree.ids) + len(continuation.ids) > max_batch_tokens:
            break
        tree.add(continuation)
        batch.append(continuation)
        predictors += tree.path[-len(continuation.targets) :]
    return tree, batch, predictors


def score_batch(
    model: PreTrainedModel, batch: Sequence[Continuation], predictors: Sequence[int], hidden: torch.Tensor
) -> list[Score]:
    # Continuations of one request share the position that predicts their first tokens.
    distinct, rows = torch.unique(torch.tensor(predictors), return_inverse=True)
    targets = torch.tensor([token for continuation in batch for token in continuation.targets])
    predicting = hidden[distinct.to(hidden.device)]  # (positions, hidden)
    log_probs, is_greedy = target_log_probs(model, predicting, rows.to(hidden.device), targets.to(hidden.device))
    lengths = [len(continuation.targets) for continuation in batch]
    by_continuation = zip(log_probs.split(lengths), is_greedy.split(lengths), lengths, strict=True)
    return [Score(each.sum().item(), length, bool(greedy.all())) for each, greedy, length in by_continuation]
