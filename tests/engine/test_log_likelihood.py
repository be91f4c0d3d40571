"""Log-likelihoods on tiny random models: equality with plain forward passes, prefix sharing, refusals."""

import math
import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain_evaluation import plain_score
from toy_families import FAMILIES, fast_model, toy_model

from eval.engine import (
    lm_head,
    log_likelihood,
    prefix_attention,
    prefix_tree,
)
from eval.engine.log_likelihood import Request, score
from open_instruct.common.errors import UserError

VOCAB_SIZE = 31


@pytest.fixture(scope="module")
def models():
    return {family: fast_model(family, vocab_size=VOCAB_SIZE) for family in FAMILIES}


@pytest.fixture
def small_bounds(monkeypatch):
    """Make every loop over blocks, slices and buckets run more than once, even on toy models."""
    monkeypatch.setattr(prefix_tree, "MAX_MASK_ELEMENTS", 40)
    monkeypatch.setattr(prefix_tree, "CHEAP_PADDING", {"cpu": 4})
    monkeypatch.setattr(lm_head, "SLICE_TOKENS", 7)
    monkeypatch.setattr(lm_head, "SLICE_POSITIONS", 3)


# Few different tokens: the sequences then share prefixes at every depth.
tokens = st.lists(st.integers(1, 3), min_size=1, max_size=6)
continuations = st.lists(tokens, min_size=1, max_size=4)
requests_of = st.lists(st.builds(Request, tokens, continuations), min_size=1, max_size=8)


@pytest.mark.usefixtures("small_bounds")
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    exemplars=st.lists(st.integers(1, 30), max_size=20),
    requests=requests_of,
    max_batch_tokens=st.sampled_from([1, 12, 8192]),
)
def test_scores_equal_plain_forward_passes(models, family, exemplars, requests, max_batch_tokens):
    requests = [Request(exemplars + request.context, request.continuations) for request in requests]
    found = score(models[family], requests, max_batch_tokens=max_batch_tokens)
    assert [len(scores) for scores in found] == [len(request.continuations) for request in requests]
    for request, scores in zip(requests, found, strict=True):
        for continuation, one in zip(request.continuations, scores, strict=True):
            expected, greedy = plain_score(models[family], request.context, continuation)
            assert one.sum_logits == pytest.approx(expected, abs=1e-4)
            assert (one.num_tokens, one.is_greedy) == (len(continuation), greedy)


@pytest.mark.parametrize("max_batch_tokens", [1, 100, 8192])
def test_scores_do_not_depend_on_batch_order_or_sharing(models, max_batch_tokens):
    numbers = random.Random(0)
    requests = random_requests(numbers)
    alone = [score(models["olmo"], [request])[0] for request in requests]
    order = numbers.sample(range(64), 64)
    shuffled = score(models["olmo"], [requests[i] for i in order], max_batch_tokens=max_batch_tokens)
    for place, i in enumerate(order):
        found, expected = ([one.sum_logits for one in scores] for scores in (shuffled[place], alone[i]))
        assert found == pytest.approx(expected, abs=1e-4)
        assert found.index(max(found)) == expected.index(max(expected))


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_on_each_device_are_those_of_plain_forward_passes_on_the_cpu(models, family, device):
    requests = random_requests(random.Random(0))
    model = fast_model(family, vocab_size=VOCAB_SIZE, device=device)
    for request, scores in zip(requests, score(model, requests, max_batch_tokens=100), strict=True):
        expected = [plain_score(models[family], request.context, ids) for ids in request.continuations]
        assert [one.sum_logits for one in scores] == pytest.approx([one for one, _ in expected], abs=1e-4)
        assert [one.is_greedy for one in scores] == [greedy for _, greedy in expected]


def random_requests(numbers: random.Random) -> list[Request]:
    """64 requests of three continuations, whose contexts share a prefix."""

    def random_tokens(most):
        return [numbers.randrange(31) for _ in range(numbers.randint(1, most))]

    exemplars = random_tokens(30)
    return [Request(exemplars + random_tokens(12), [random_tokens(5) for _ in range(3)]) for _ in range(64)]


def test_every_distinct_prefix_is_computed_once(models, monkeypatch):
    passes = []

    def counting(model, tree, *args):
        passes.append(list(tree.ids))
        return forward(model, tree, *args)

    forward = prefix_attention.forward
    monkeypatch.setattr(log_likelihood, "forward", counting)
    exemplars, group = [9] * 20, [8] * 10
    requests = [Request([*exemplars, *group, i, 5], [[1, 2, 3], [1, 2, 4]]) for i in range(1, 7)]
    requests += [Request([*exemplars, i], [[7]]) for i in range(1, 7)]
    score(models["llama"], requests[::-1], max_batch_tokens=12)
    # Of each of the first six: its two tokens, then 1 and 2; of each of the others its own token.
    assert sum(map(len, passes)) == 20 + 10 + 6 * 4 + 6
    assert len(passes) > 3


def test_greedily_decoded_continuation_is_greedy(models):
    context, decoded = [3, 4, 5], []
    for _ in range(4):
        decoded.append(models["olmo"](torch.tensor([context + decoded])).logits[0, -1].argmax().item())
    other = [*decoded[:-1], (decoded[-1] + 1) % 31]
    greedy, changed = score(models["olmo"], [Request(context, [decoded, other])])[0]
    assert greedy.is_greedy
    assert not changed.is_greedy
    assert greedy.sum_logits > changed.sum_logits


def test_zero_logits_give_every_token_the_same_probability():
    model = toy_model("olmo", vocab_size=VOCAB_SIZE)
    torch.nn.init.zeros_(model.lm_head.weight)
    one, two = score(model, [Request([1], [[2], [3, 4]])])[0]
    assert one.sum_logits == pytest.approx(-math.log(31), abs=1e-5)
    assert two.sum_logits == pytest.approx(-2 * math.log(31), abs=1e-5)


def test_progress_counts_every_request_once(models):
    counts = []
    requests = [Request([1, 2], [[3, 4, 5], [6, 7, 8]]), Request([1], [[2]]), Request([9], [])]
    assert score(models["neox"], requests, max_batch_tokens=3, progress=counts.append)[2] == []
    assert sum(counts) == 2


def test_scoring_restores_attention_and_training_mode():
    model = toy_model("neox").train()
    score(model, [Request([1], [[2]])])
    assert model.training
    assert model.config._attn_implementation == "sdpa"


def test_out_of_memory_halves_the_batches(models, monkeypatch):
    def with_little_memory(model, tree, *args):
        if len(tree.ids) > 9:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(model, tree, *args)

    forward = prefix_attention.forward
    requests = [Request([i, i + 1], [[3, 4], [5, 6, 7]]) for i in range(1, 20)]
    expected = score(models["olmo"], requests)
    monkeypatch.setattr(log_likelihood, "forward", with_little_memory)
    counts = []
    found = score(models["olmo"], requests, progress=counts.append)
    assert len(counts) >= 5
    for scores, others in zip(found, expected, strict=True):
        assert [one.sum_logits for one in scores] == pytest.approx([one.sum_logits for one in others], abs=1e-5)
    with pytest.raises(UserError, match="single sequence"):
        score(models["olmo"], [Request([1] * 10, [[1]])])


def test_other_errors_are_not_treated_as_out_of_memory(models, monkeypatch):
    def broken(*args):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(log_likelihood, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        score(models["olmo"], [Request([1], [[2]])])


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request([], [[1]]), "empty context or continuation"),
        (Request([1], [[]]), "empty context or continuation"),
        (Request([1], [[31]]), "token id 31, the model has 31 tokens"),
    ],
)
def test_invalid_requests_are_refused(models, request_, message):
    with pytest.raises(UserError, match=message):
        score(models["olmo"], [request_])


def test_nan_weights_are_refused():
    model = toy_model("olmo", vocab_size=VOCAB_SIZE)
    torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    with pytest.raises(UserError, match="not finite"):
        score(model, [Request([1], [[2]])])
