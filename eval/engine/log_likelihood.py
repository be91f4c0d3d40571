"""Log-likelihood of continuations given a context, in batches.

Every distinct prefix of the requests' sequences is computed once (prefix_tree.py): the exemplars of an evaluation set,
the context of a request's continuations, or the first tokens that these share. Batches need no padding. The LM head is
applied only at the positions that predict a token of a continuation, once for each position.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import cast

import numpy as np
import torch
from transformers import PreTrainedModel

from eval.engine.lm_head import check_finite, check_lm_head, target_log_probs
from eval.engine.prefix_attention import TokenStates, forward, is_out_of_memory, prefix_attention
from eval.engine.prefix_tree import PrefixTree, Segment, common_prefix_length
from open_instruct.common.devices import to_device
from open_instruct.common.errors import UserError

MAX_BATCH_TOKENS = {"cpu": 4096, "cuda": 16384}


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
    max_batch_tokens: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> list[list[Score]]:
    """Score every continuation of every request, in the order of `requests`.

    A forward pass takes at most `max_batch_tokens` tokens (default: by device), not counting the prefix that it shares
    with the pass before.
    The bound is halved when a pass runs out of memory. It does not change a score, beyond float noise. Contexts are not
    truncated here. `progress` is called after each pass with the number of requests begun.

    Raises UserError for empty or unknown token ids, a model whose scores prefix sharing would change, and NaN logits.
    """
    check_requests(requests, vocab_size=cast(torch.nn.Embedding, model.get_input_embeddings()).num_embeddings)
    check_model(model, longest=max((sequence_length(request) for request in requests), default=0))
    continuations = list(sorted_continuations(requests))
    max_tokens = max_batch_tokens or MAX_BATCH_TOKENS[model.device.type]
    log_probs, are_greedy = [], []
    num_done, cached = 0, TokenStates()
    with prefix_attention(model):
        while num_done < len(continuations):
            tree, batch, predictors = next_batch(continuations, num_done, max_batch_tokens=max_tokens)
            end = num_done + len(batch)
            num_kept = continuations[end].num_shared if end < len(continuations) else 0
            try:
                hidden, kept = forward(model, tree, cached, tree.path[:num_kept])
                of_batch, is_greedy = score_batch(model, batch, predictors, hidden)
            except RuntimeError as error:
                if not is_out_of_memory(error, is_smallest=len(batch) == 1):
                    raise
                max_tokens = len(tree.ids) // 2
                continue
            # They stay on the device until the end: fetching them would wait for a GPU after each pass.
            log_probs.append(of_batch)
            are_greedy.append(is_greedy)
            if progress:
                begun_before = {continuations[num_done - 1].request} if num_done else set()
                progress(len({continuation.request for continuation in batch} - begun_before))
            num_done, cached = end, kept
    found = scores_of(continuations, log_probs, are_greedy)
    scores: list[list[Score | None]] = [[None] * len(request.continuations) for request in requests]
    for continuation, result in zip(continuations, found, strict=True):
        scores[continuation.request][continuation.number] = result
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
) -> tuple[PrefixTree, list[Continuation], np.ndarray]:
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
        predictors.append(tree.path[-len(continuation.targets) :])
    return tree, batch, np.concatenate(predictors)


def score_batch(
    model: PreTrainedModel, batch: Sequence[Continuation], predictors: np.ndarray, hidden: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each target, and whether it is the most likely token.  -> (targets,) each, on the device"""
    # Continuations of one request share the position that predicts their first tokens.
    distinct, rows = np.unique(predictors, return_inverse=True)
    targets = np.fromiter(chain.from_iterable(continuation.targets for continuation in batch), dtype=np.int64)
    distinct, rows, targets = (to_device(each, hidden.device) for each in (distinct, rows, targets))
    return target_log_probs(model, hidden[distinct], rows, targets)


def scores_of(
    continuations: Sequence[Continuation], log_probs: Sequence[torch.Tensor], are_greedy: Sequence[torch.Tensor]
) -> list[Score]:
    """From the log-probabilities of all targets, one tensor a batch.  Raises UserError where one is not finite."""
    if not continuations:
        return []
    by_target, is_greedy = (torch.cat(list(of_batches)).cpu().numpy() for of_batches in (log_probs, are_greedy))
    check_finite(by_target)
    lengths = [len(continuation.targets) for continuation in continuations]
    begins = np.cumsum([0, *lengths[:-1]])
    sums = np.add.reduceat(by_target.astype(np.float64), begins).tolist()
    all_greedy = np.logical_and.reduceat(is_greedy, begins).tolist()
    return [Score(*each) for each in zip(sums, lengths, all_greedy, strict=True)]
