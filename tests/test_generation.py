"""Generation: the same text in any batch, endings, sampling; on tiny random models without network."""

import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OlmoConfig,
    OlmoForCausalLM,
)

from eval.generation import batches, generate, sample
from open_instruct.records import UserError

EOS = 63
STOPS = (7, 11, 20, 33)
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}


def make(family: str) -> Any:
    torch.manual_seed(0)
    if family == "olmo":
        return OlmoForCausalLM(OlmoConfig(**SIZES)).eval()
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2)).eval()
    return GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES)).eval()


@pytest.fixture(scope="module", params=["olmo", "llama", "neox"])
def model(request):
    return make(request.param)


@pytest.fixture(scope="module")
def olmo():
    return make("olmo")


@pytest.fixture(scope="module")
def prompts():
    numbers = random.Random(0)
    return [[numbers.randrange(60) for _ in range(numbers.randint(1, 20))] for _ in range(64)]


def one_by_one(model, prompt, max_new_tokens, endings):
    """Greedy decoding without batch, padding or cache."""
    ids = list(prompt)
    for _ in range(max_new_tokens):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in endings:
            break
    return ids[len(prompt) :]


def test_text_is_that_of_plain_greedy_decoding_whatever_the_batch(model, prompts):
    expected = [one_by_one(model, prompt, 8, {EOS, *STOPS}) for prompt in prompts]
    assert len({len(ids) for ids in expected}) > 3, "rows must end at different steps, or nothing leaves the batch"
    for rows in (1, 8, 64):
        found = generate(model, prompts, max_new_tokens=8, eos_id=EOS, stop_ids=STOPS, max_batch_tokens=rows * (20 + 8))
        assert [answer.ids for answer in found] == [ids[:-1] if ids[-1] == EOS else ids for ids in expected]
        assert [answer.finished for answer in found] == [ids[-1] in (EOS, *STOPS) for ids in expected]


def test_sampled_text_does_not_depend_on_the_batch_and_depends_on_the_seed(olmo, prompts):
    def texts(seed, rows):
        found = generate(
            olmo,
            prompts[:16],
            max_new_tokens=8,
            eos_id=EOS,
            do_sample=True,
            top_p=0.9,
            seed=seed,
            max_batch_tokens=rows * 28,
        )
        return [answer.ids for answer in found]

    assert texts(0, 1) == texts(0, 16)
    assert texts(0, 16) != texts(1, 16)


def test_an_items_sample_is_that_of_its_position(olmo, prompts):
    options = {"max_new_tokens": 8, "eos_id": EOS, "do_sample": True}
    whole = generate(olmo, prompts[:6], seed=5, **options)
    assert generate(olmo, prompts[4:6], seed=5 + 4, **options) == whole[4:]


def test_eos_is_cut_off_and_a_stop_token_is_kept(olmo):
    first, second = one_by_one(olmo, [1, 2, 3], 2, set())
    assert first != second
    (by_eos,) = generate(olmo, [[1, 2, 3]], max_new_tokens=5, eos_id=second)
    (by_stop,) = generate(olmo, [[1, 2, 3]], max_new_tokens=5, eos_id=EOS, stop_ids=[second])
    (cut_short,) = generate(olmo, [[1, 2, 3]], max_new_tokens=1, eos_id=second)
    assert (by_eos.ids, by_eos.finished) == ([first], True)
    assert (by_stop.ids, by_stop.finished) == ([first, second], True)
    assert (cut_short.ids, cut_short.finished) == ([first], False)


def test_draws_pick_tokens_by_cumulative_probability():
    # Tokens 0, 1, 2 with probabilities 0.2, 0.5, 0.3; sorted: 1 up to 0.5, 2 up to 0.8, 0 up to 1.
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log().expand(4, 3)
    draws = torch.tensor([0.0, 0.49, 0.51, 0.81])
    assert sample(logits, draws, temperature=1.0, top_p=1.0).tolist() == [1, 1, 2, 0]
    # The two likeliest reach 0.7: of their 0.8 together, 1 takes draws below 0.5 / 0.8 = 0.625.
    assert sample(logits, torch.tensor([0.0, 0.62, 0.63, 0.99]), temperature=1.0, top_p=0.7).tolist() == [1, 1, 2, 2]
    # A low temperature leaves the likeliest alone.
    assert sample(logits, draws, temperature=0.01, top_p=1.0).tolist() == [1, 1, 1, 1]


@given(st.lists(st.integers(1, 30), max_size=40), st.integers(1, 10), st.integers(1, 200))
def test_batches_hold_every_prompt_once_under_the_budget(lengths, new, budget):
    found = list(batches([[0] * n for n in lengths], max_new_tokens=new, max_batch_tokens=budget))
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * (max(lengths[i] for i in batch) + new) <= budget


def test_progress_counts_every_prompt(olmo, prompts):
    counts = []
    generate(olmo, prompts[:10], max_new_tokens=2, eos_id=EOS, max_batch_tokens=40, progress=counts.append)
    assert sum(counts) == 10
    assert len(counts) > 1


@pytest.mark.parametrize("do_sample", [False, True])
def test_nan_logits_are_refused(do_sample):
    model = make("olmo")
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    with pytest.raises(UserError, match="NaN"):
        generate(model, [[1, 2]], max_new_tokens=2, eos_id=EOS, do_sample=do_sample)


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([], {}, "prompt 0 is empty"),
        ([1], {"max_new_tokens": 0}, "max_new_tokens is 0"),
        ([1], {"temperature": 0.0}, "temperature is 0.0"),
        ([1], {"top_p": 1.5}, "top_p is 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(olmo, prompt, options, message):
    with pytest.raises(UserError, match=message):
        generate(olmo, [prompt], **({"max_new_tokens": 2, "eos_id": EOS} | options))


def test_no_prompts_no_text(olmo):
    assert generate(olmo, [], max_new_tokens=2, eos_id=EOS) == []
