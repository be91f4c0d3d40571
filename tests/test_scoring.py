import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM, OlmoConfig, OlmoForCausalLM

from eval import scoring
from eval.scoring import Request, score
from open_instruct.records import UserError

SIZES = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.5,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
FAMILIES = {
    "olmo": (OlmoConfig, OlmoForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "neox": (GPTNeoXConfig, GPTNeoXForCausalLM),
}


def toy_model(family):
    torch.manual_seed(0)
    config, kind = FAMILIES[family]
    return kind(config(**SIZES)).float().eval()


@pytest.fixture(scope="module")
def models():
    return {family: toy_model(family) for family in FAMILIES}


def naive(model, context, continuation):
    """One unpadded forward pass of one continuation: log-likelihood, and whether greedy decoding would write it."""
    with torch.no_grad():
        log_probs = model(torch.tensor([context + continuation])).logits[0].log_softmax(-1)
    rows = log_probs[len(context) - 1 : -1]
    greedy = rows.argmax(-1).tolist() == continuation
    return rows.gather(-1, torch.tensor(continuation)[:, None]).sum().item(), greedy


tokens = st.lists(st.integers(0, 30), min_size=1, max_size=6)
requests_of = st.lists(st.builds(Request, tokens, st.lists(tokens, min_size=1, max_size=4)), min_size=1, max_size=5)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=10, deadline=None)
@given(requests=requests_of, max_batch_tokens=st.sampled_from([1, 12, 20480]))
def test_scores_equal_one_pass_for_each_continuation(models, family, requests, max_batch_tokens):
    found = score(models[family], requests, max_batch_tokens=max_batch_tokens)
    assert [len(scores) for scores in found] == [len(request.continuations) for request in requests]
    for request, scores in zip(requests, found, strict=True):
        for continuation, one in zip(request.continuations, scores, strict=True):
            expected, greedy = naive(models[family], request.context, continuation)
            assert one.sum_logits == pytest.approx(expected, abs=1e-4)
            assert (one.num_tokens, one.is_greedy) == (len(continuation), greedy)


def test_what_the_model_writes_itself_is_greedy(models):
    context, written = [3, 4, 5], []
    for _ in range(4):
        written.append(models["olmo"](torch.tensor([context + written])).logits[0, -1].argmax().item())
    other = [*written[:-1], (written[-1] + 1) % 31]
    greedy, changed = score(models["olmo"], [Request(context, [written, other])])[0]
    assert greedy.is_greedy
    assert not changed.is_greedy
    assert greedy.sum_logits > changed.sum_logits


def test_a_model_without_preferences_gives_every_token_the_same_share():
    model = toy_model("olmo")
    torch.nn.init.zeros_(model.lm_head.weight)
    one, two = score(model, [Request([1], [[2], [3, 4]])])[0]
    assert one.sum_logits == pytest.approx(-math.log(31), abs=1e-5)
    assert two.sum_logits == pytest.approx(-2 * math.log(31), abs=1e-5)


def test_bounds_on_mask_and_logits_do_not_change_the_scores(models, monkeypatch):
    requests = [Request([1, 2, 3], [[4, 5, 6, 7], [8, 9], [10, 11, 12]]), Request([5], [[6]])]
    before = score(models["llama"], requests)
    monkeypatch.setattr(scoring, "MAX_MASK_ELEMENTS", 49)
    monkeypatch.setattr(scoring, "MAX_LOGIT_ELEMENTS", 62)
    after = score(models["llama"], requests)
    assert [s.sum_logits for s in after[0]] == pytest.approx([s.sum_logits for s in before[0]], abs=1e-5)
    assert after[1][0].sum_logits == pytest.approx(before[1][0].sum_logits, abs=1e-5)


def test_progress_counts_every_request_once(models):
    counts = []
    requests = [Request([1, 2], [[3, 4, 5], [6, 7, 8]]), Request([1], [[2]]), Request([9], [])]
    assert score(models["neox"], requests, max_batch_tokens=3, progress=counts.append)[2] == []
    assert sum(counts) == 2


def test_training_mode_is_left_as_it_was():
    model = toy_model("neox").train()
    score(model, [Request([1], [[2]])])
    assert model.training


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request([], [[1]]), "empty context or continuation"),
        (Request([1], [[]]), "empty context or continuation"),
        (Request([1], [[31]]), "token id 31, the model knows 31 tokens"),
    ],
)
def test_requests_that_cannot_be_scored_are_refused(models, request_, message):
    with pytest.raises(UserError, match=message):
        score(models["olmo"], [request_])


def test_broken_weights_are_refused():
    model = toy_model("olmo")
    torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    with pytest.raises(UserError, match="not finite"):
        score(model, [Request([1], [[2]])])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("sliding_window", 3, "attends to 3 tokens"),
        ("final_logit_softcapping", 30.0, "final_logit_softcapping is 30.0"),
    ],
)
def test_models_that_a_tree_mask_would_change_are_refused(name, value, message):
    model = toy_model("llama")
    setattr(model.config, name, value)
    with pytest.raises(UserError, match=message):
        score(model, [Request([1, 2, 3, 4], [[5]])])
