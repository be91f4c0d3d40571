"""Log-likelihood of continuations given a context, in batches.

Where the model's plain forward pass says the same (ways.py), every distinct prefix of the sequences is computed once
(prefix_tree.py): the exemplars of an evaluation set, the context of a request's continuations, or the first tokens that
these share. Batches need no padding. The LM head is applied only at the positions that predict a token of a
continuation, once for each position. Otherwise padded_scoring.py computes them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import cast

import numpy as np
import torch
from transformers import PreTrainedModel

from eval.engine.lm_head import check_finite, target_log_probs
from eval.engine.padded_scoring import Request, Score, padded_scores
from eval.engine.prefix_attention import TokenStates, forward, is_out_of_memory, prefix_attention
from eval.engine.prefix_tree import PrefixTree, Segment, common_prefix_length
from eval.engine.ways import ALONE, PADDED, PREFIX_TREE, Candidate, choose
from open_instruct.common.devices import to_device
from open_instruct.common.errors import UserError
from open_instruct.common.plain_pass import Probe

MAX_BATCH_TOKENS = {"cpu": 4096, "cuda": 16384}
PROBED = (((0, 3), (1, 3)), ((1, 7),))
"""(sequence, its first scored token) of every continuation, by request, that are compared with a probe."""


@dataclass(frozen=True)
class Continuation(Segment):
    """One continuation of a request. Its last token predicts nothing and is not part of the segment."""

    number: int
    """Index within the request."""
    targets: list[int]


def score(
    model: PreTrainedModel,
    requests: Sequence[Request],
    *,
    max_batch_tokens: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> list[list[Score]]:
    """Score every continuation of every request, in the order of `requests`.

    A forward pass takes at most `max_batch_tokens` tokens (default: by device), not counting the prefix that it shares
    with the pass before, and fewer where memory runs out. It does not change a score, beyond float noise. Contexts are
    not truncated here. `progress` is called after each pass with the number of requests begun.

    Raises UserError for empty or unknown token ids, NaN logits, and a model that is no causal language model.
    """
    check_requests(requests, vocab_size=cast(torch.nn.Embedding, model.get_input_embeddings()).num_embeddings)
    longest = max((sequence_length(request) for request in requests), default=0)
    max_tokens = max_batch_tokens or MAX_BATCH_TOKENS[model.device.type]
    way = scoring_way(model, longest=longest)
    if way == PREFIX_TREE:
        return tree_scores(model, requests, max_batch_tokens=max_tokens, progress=progress)
    max_rows = 1 if way == ALONE else None
    return padded_scores(model, requests, max_batch_tokens=max_tokens, max_rows=max_rows, progress=progress)


def scoring_way(model: PreTrainedModel, *, longest: int) -> str:
    """The fastest right way for sequences of up to `longest` tokens (ways.py)."""
    candidates = [
        Candidate(PREFIX_TREE, partial(deviation, partial(tree_scores, model)), is_own=True),
        Candidate(PADDED, partial(deviation, partial(padded_scores, model))),
        Candidate(ALONE, None, is_plain=True),
    ]
    return choose(model, "log-likelihoods", candidates, longest=longest)


def deviation(score_all: Callable[..., list[list[Score]]], found: Probe) -> float:
    """Largest difference from the probe, in nats a token.  score_all: tree_scores or padded_scores of a model"""
    requests = []
    for parts in PROBED:
        number, first = parts[0]
        continuations = [found.sequences[index][start:] for index, start in parts]
        requests.append(Request(found.sequences[number][:first], continuations))
    scores = chain.from_iterable(score_all(requests, max_batch_tokens=MAX_BATCH_TOKENS["cpu"]))
    differences = []
    for score_found, (index, first) in zip(scores, chain.from_iterable(PROBED), strict=True):
        expected = found.log_probs[index][first - 1 :].double()
        differences.append(abs(score_found.sum_logits - expected.sum().item()) / len(expected))
    return max(differences)


@torch.inference_mode()
def tree_scores(
    model: PreTrainedModel,
    requests: Sequence[Request],
    *,
    max_batch_tokens: int,
    progress: Callable[[int], object] | None = None,
) -> list[list[Score]]:
    """`score` with every distinct prefix computed once."""
    continuations = list(sorted_continuations(requests))
    max_tokens = max_batch_tokens
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
