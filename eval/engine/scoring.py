"""Log-likelihood of whole continuations: the one way in which this project asks a model what it finds likely.

Every distinct beginning of the requests' texts is computed once, be it the exemplars of a whole set, the context of an
item's alternatives or their common first words (forest.py), without padding; the vocabulary is projected only at the
positions that predict a token of a continuation, once for each such position.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from transformers import PreTrainedModel

from eval.engine.lm_head import check_head, target_log_probs
from eval.engine.prefix_attention import (
    Computed,
    compute,
    is_lack_of_memory,
    own_attention,
)
from eval.engine.prefix_tree import Forest, Strand, num_shared
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
    """Whether no token has a likelier rival, so that greedy decoding would write this continuation."""


@dataclass(frozen=True)
class Question(Strand):
    """One continuation after its context. The last token of a continuation predicts nothing: it is left out."""

    number: int
    """Of the continuation within the request."""
    targets: list[int]


@dataclass
class Batch:
    """Questions of one forward pass."""

    forest: Forest
    questions: list[Question] = field(default_factory=list)
    predictors: list[int] = field(default_factory=list)
    """For each target of each question, the index of the token that predicts it."""
    num_begun: int = 0
    """Requests whose first question is here."""


@torch.inference_mode()
def score(
    model: PreTrainedModel,
    requests: Sequence[Request],
    *,
    max_batch_tokens: int = MAX_BATCH_TOKENS,
    batch_size: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> list[list[Score]]:
    """Scores of every continuation of every request, in the order of `requests`.

    A forward pass holds at most `max_batch_tokens` tokens, what it shares with the pass before not counted, and at most
    `batch_size` requests. A continuation's score does not depend on what else is in it, beyond float noise. Where
    memory does not suffice the bound is halved. Contexts are taken as they are: to cut long ones is the caller's job.
    `progress` is called after each pass with the number of requests begun.

    Raises UserError for empty or foreign token ids, for a model whose attention cannot share texts, for NaN logits.
    """
    check_requests(requests, vocab_size=cast(torch.nn.Embedding, model.get_input_embeddings()).num_embeddings)
    check_model(model, longest=max((longest_text(request) for request in requests), default=0))
    scores: list[list[Score | None]] = [[None] * len(request.continuations) for request in requests]
    questions = list(in_order(requests))
    done, chain = 0, Computed()
    with own_attention(model):
        while done < len(questions):
            batch = take(questions, done, max_batch_tokens=max_batch_tokens, batch_size=batch_size)
            following = done + len(batch.questions)
            num_kept = questions[following].num_shared if following < len(questions) else 0
            try:
                found, chain = score_batch(model, batch, chain, batch.forest.path[:num_kept])
            except RuntimeError as error:
                if not is_lack_of_memory(error, at_least=len(batch.questions) == 1):
                    raise
                max_batch_tokens = len(batch.forest.ids) // 2
                continue
            for question, one in zip(batch.questions, found, strict=True):
                scores[question.owner][question.number] = one
            done = following
            if progress:
                progress(batch.num_begun)
    return [[one for one in of_request if one] for of_request in scores]


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


def longest_text(request: Request) -> int:
    return len(request.context) + max((len(tokens) - 1 for tokens in request.continuations), default=0)


def check_model(model: PreTrainedModel, *, longest: int) -> None:
    """Raises UserError where sharing texts, or projecting only some positions, would change the model's answers."""
    window = getattr(model.config, "sliding_window", None)
    if window and longest > window:
        raise UserError(f"the model attends to {window} tokens, a text has {longest}; lower the maximum length")
    check_head(model)


def in_order(requests: Sequence[Request]) -> Iterator[Question]:
    """Every continuation of every request; texts that begin alike follow each other."""
    before: list[int] = []  # the context of the question before
    for owner in sorted(range(len(requests)), key=lambda i: requests[i].context):
        context, continuations = requests[owner].context, requests[owner].continuations
        shared, tail = num_shared(before, context), None
        for number in sorted(range(len(continuations)), key=continuations.__getitem__):
            ids = continuations[number][:-1]
            if tail is None:
                yield Question(owner, shared, context[shared:] + ids, number, continuations[number])
            else:
                also = num_shared(tail, ids)
                yield Question(owner, len(context) + also, ids[also:], number, continuations[number])
            before, tail = context, ids


def take(questions: Sequence[Question], first: int, *, max_batch_tokens: int, batch_size: int | None) -> Batch:
    """As many questions from `first` on as keep both bounds; one that keeps neither stands alone."""
    batch = Batch(Forest(questions[first].num_shared))
    owners = 0
    for number in range(first, len(questions)):
        question = questions[number]
        is_begun = number == 0 or questions[number - 1].owner != question.owner
        owners += is_begun or number == first
        is_full = len(batch.forest.ids) + len(question.ids) > max_batch_tokens
        if batch.questions and (is_full or (batch_size is not None and owners > batch_size)):
            break
        batch.forest.add(question)
        batch.questions.append(question)
        batch.predictors += batch.forest.path[-len(question.targets) :]
        batch.num_begun += is_begun
    return batch


def score_batch(
    model: PreTrainedModel, batch: Batch, chain: Computed, keep: Sequence[int]
) -> tuple[list[Score], Computed]:
    """Scores of the batch's questions, and what was computed for the tokens `keep`."""
    hidden, kept = compute(model, batch.forest, chain, keep)
    # Questions of one request share the position that predicts their first tokens.
    predictors, rows = torch.unique(torch.tensor(batch.predictors), return_inverse=True)
    targets = torch.tensor([token for question in batch.questions for token in question.targets])
    predicting = hidden[predictors.to(hidden.device)]  # (positions, hidden)
    log_probs, is_top = target_log_probs(model, predicting, rows.to(hidden.device), targets.to(hidden.device))
    lengths = [len(question.targets) for question in batch.questions]
    by_question = zip(log_probs.split(lengths), is_top.split(lengths), lengths, strict=True)
    return [Score(log_prob.sum().item(), length, bool(top.all())) for log_prob, top, length in by_question], kept
