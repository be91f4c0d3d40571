"""Generation on tiny random models: independence of the batch, end of generation, sampling."""

import copy
import random
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain_evaluation import decode_greedily
from torch.nn.functional import scaled_dot_product_attention
from toy_families import fast_model, toy_model
from transformers import LlamaConfig, LlamaForCausalLM, OlmoForCausalLM

from eval.engine import continuous_batching, kv_cache, lm_head
from eval.engine.generation import generate
from eval.engine.sampling import sample
from open_instruct.common.errors import UserError

EOS = 63
STOPS = (7, 11, 20, 33)


@pytest.fixture(scope="module", params=["olmo", "llama", "neox"])
def model(request):
    return fast_model(request.param)


@pytest.fixture(scope="module")
def olmo():
    return fast_model("olmo")


@pytest.fixture(scope="module")
def prompts():
    numbers = random.Random(0)
    return [[numbers.randrange(60) for _ in range(numbers.randint(1, 20))] for _ in range(64)]


@pytest.fixture(params=[0, 1])
def in_flight(request, monkeypatch):
    """Steps that are launched before the tokens of the one before have arrived, on any device."""
    monkeypatch.setattr(continuous_batching, "MAX_IN_FLIGHT", {"cpu": request.param, "cuda": request.param})


@pytest.mark.usefixtures("in_flight")
@pytest.mark.parametrize("exemplars", [0, 36])
def test_generation_equals_plain_greedy_decoding_for_any_batch(model, prompts, exemplars, device):
    """In batches of one, few or all prompts; with and without a prefix that all prompts share."""
    num_prompts = 64 if isinstance(model, OlmoForCausalLM) and exemplars else 16
    prompts = [[*range(10, 10 + exemplars), *prompt] for prompt in prompts[:num_prompts]]
    expected = [decode_greedily(model, prompt, 8, {EOS, *STOPS}) for prompt in prompts]
    assert len({len(ids) for ids in expected}) > 2, "rows must end at different steps, or nothing leaves the batch"
    order = random.Random(1).sample(range(num_prompts), num_prompts)
    model = copy.deepcopy(model).to(device)
    for bounds in ({"batch_size": 1}, {"batch_size": 8}, {"batch_size": 64}, {"max_batch_tokens": 100}):
        shuffled = [prompts[i] for i in order]
        found = generate(model, shuffled, max_new_tokens=8, eos_id=EOS, stop_ids=STOPS, **bounds)
        for place, i in enumerate(order):
            ids = expected[i]
            assert found[place].ids == (ids[:-1] if ids[-1] == EOS else ids)
            assert found[place].finished == (ids[-1] in (EOS, *STOPS))


@pytest.mark.parametrize("exemplars", [0, 36])
def test_decoding_with_fixed_shapes_gives_the_same_text(model, prompts, exemplars, monkeypatch):
    """The step that is captured on a GPU: rows that are not in use, and places not yet reached, are computed too."""

    class WithFixedShape(continuous_batching.KVCache):
        def __init__(self, *args, fixed_shape, **options):
            super().__init__(*args, fixed_shape=True, **options)

    options = {"max_new_tokens": 8, "eos_id": EOS, "stop_ids": STOPS, "batch_size": 6}
    prompts = [[*range(10, 10 + exemplars), *prompt] for prompt in prompts[:20]]
    expected = generate(model, prompts, **options)
    assert len({len(each.ids) for each in expected}) > 2, "rows must end at different steps, or none is out of use"
    monkeypatch.setattr(continuous_batching, "KVCache", WithFixedShape)
    assert generate(model, prompts, **options) == expected


def attention_one_by_one(q, keys, values, query_starts, key_starts, longest_query, longest_key, *, scale):
    """As torch's varlen_attn: of each sequence to itself, without a mask.  (tokens, heads, size)"""
    out = torch.zeros_like(q)
    sequences = zip(pairwise(query_starts.tolist()), pairwise(key_starts.tolist()), strict=True)
    for (query_begin, query_end), (key_begin, key_end) in sequences:
        assert query_end - query_begin <= longest_query
        assert key_end - key_begin <= longest_key
        parts = (q[query_begin:query_end], keys[key_begin:key_end], values[key_begin:key_end])
        found = scaled_dot_product_attention(*(part.transpose(0, 1) for part in parts), scale=scale)
        out[query_begin:query_end] = found.transpose(0, 1)
    return out


def test_decoding_by_the_kernel_for_unequal_lengths_gives_the_same_text(model, prompts, monkeypatch):
    """The kernel itself runs on GPUs only; here is what it is told to read."""
    options = {"max_new_tokens": 8, "eos_id": EOS, "stop_ids": STOPS, "batch_size": 6}
    expected = generate(model, prompts[:20], **options)
    monkeypatch.setattr(kv_cache, "has_varlen_kernel", lambda *_: True)
    monkeypatch.setattr(kv_cache, "fits_varlen_kernel", lambda _: True)
    monkeypatch.setattr(kv_cache, "varlen_attn", attention_one_by_one)
    assert generate(model, prompts[:20], **options) == expected


def test_half_precision_on_a_gpu_has_the_text_of_the_cpu(device):
    """Of a model whose heads fit the kernel, and whose two key heads have two query heads each."""
    shape = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=64, intermediate_size=64, num_hidden_layers=2, **shape)
    model = LlamaForCausalLM(config).bfloat16()
    prompts = [[number, *range(number % 7)] for number in range(1, 41)]
    expected = [decode_greedily(model, prompt, 6, {EOS}) for prompt in prompts]
    found = generate(model.to(device), prompts, max_new_tokens=6, eos_id=EOS, batch_size=16)
    same = sum(each.ids == [token for token in ids if token != EOS] for each, ids in zip(found, expected, strict=True))
    # Where two tokens are nearly equally likely, float noise decides.
    assert same >= 0.8 * len(prompts)


token_lists = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=6), min_size=1, max_size=10)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(token_lists, st.integers(0, 40), st.integers(1, 12), st.integers(1, 30))
def test_shared_prefixes_do_not_change_generations(olmo, monkeypatch, prompts, exemplars, batch_size, pass_tokens):
    monkeypatch.setattr(continuous_batching, "MAX_PREFILL_TOKENS", {"cpu": pass_tokens})
    prompts = [[5] * exemplars + prompt for prompt in prompts]
    found = generate(olmo, prompts, max_new_tokens=4, eos_id=EOS, batch_size=batch_size)
    expected = {tuple(prompt): decode_greedily(olmo, prompt, 4, {EOS}) for prompt in prompts}
    for prompt, answer in zip(prompts, found, strict=True):
        assert answer.ids == [token for token in expected[tuple(prompt)] if token != EOS]


def test_shared_prefix_and_each_prompt_are_computed_once(olmo, monkeypatch):
    passes = []

    def counting(model, tree, *args):
        passes.append(len(tree.ids))
        return forward(model, tree, *args)

    forward = continuous_batching.forward
    monkeypatch.setattr(continuous_batching, "forward", counting)
    generate(olmo, [[*range(40), i, i] for i in range(1, 11)], max_new_tokens=3, eos_id=EOS, batch_size=3)
    assert passes[0] == 40
    assert sum(passes) == 40 + 10 * 2


def test_out_of_memory_halves_the_number_of_rows(olmo, prompts, monkeypatch):
    class LittleMemory(continuous_batching.KVCache):
        def __init__(self, *args, max_rows, **options):
            if max_rows > 5:
                raise torch.OutOfMemoryError("CUDA out of memory")
            super().__init__(*args, max_rows=max_rows, **options)

    options = {"max_new_tokens": 4, "eos_id": EOS}
    expected = generate(olmo, prompts[:20], **options)
    monkeypatch.setattr(continuous_batching, "KVCache", LittleMemory)
    assert generate(olmo, prompts[:20], **options) == expected


@pytest.mark.usefixtures("in_flight")
def test_samples_depend_on_the_seed_not_on_the_batch(olmo, prompts):
    def texts(seed, rows):
        found = generate(
            olmo,
            prompts[:16],
            max_new_tokens=8,
            eos_id=EOS,
            do_sample=True,
            top_p=0.9,
            seed=seed,
            batch_size=rows,
        )
        return [answer.ids for answer in found]

    assert texts(0, 1) == texts(0, 16)
    assert texts(0, 16) != texts(1, 16)


def test_sample_depends_on_the_position_of_the_prompt(olmo, prompts):
    options = {"max_new_tokens": 8, "eos_id": EOS, "do_sample": True}
    whole = generate(olmo, prompts[:6], seed=5, **options)
    assert generate(olmo, prompts[4:6], seed=5 + 4, **options) == whole[4:]


def test_eos_is_removed_and_a_stop_token_is_kept(olmo):
    first, second = decode_greedily(olmo, [1, 2, 3], 2, set())
    assert first != second
    (by_eos,) = generate(olmo, [[1, 2, 3]], max_new_tokens=5, eos_id=second)
    (by_stop,) = generate(olmo, [[1, 2, 3]], max_new_tokens=5, eos_id=EOS, stop_ids=[second])
    (cut_short,) = generate(olmo, [[1, 2, 3]], max_new_tokens=1, eos_id=second)
    assert (by_eos.ids, by_eos.finished) == ([first], True)
    assert (by_stop.ids, by_stop.finished) == ([first, second], True)
    assert (cut_short.ids, cut_short.finished) == ([first], False)


def test_sampling_inverts_the_cumulative_distribution():
    # Tokens 0, 1, 2 with probabilities 0.2, 0.5, 0.3; sorted: 1 up to 0.5, 2 up to 0.8, 0 up to 1.
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log().expand(4, 3)
    draws = torch.tensor([0.0, 0.49, 0.51, 0.81])
    assert sample(logits, draws, temperature=1.0, top_p=1.0).tolist() == [1, 1, 2, 0]
    # The two most likely tokens reach 0.7: of their total of 0.8, token 1 takes draws below 0.5 / 0.8 = 0.625.
    assert sample(logits, torch.tensor([0.0, 0.62, 0.63, 0.99]), temperature=1.0, top_p=0.7).tolist() == [1, 1, 2, 2]
    # At a low temperature only the most likely token is sampled.
    assert sample(logits, draws, temperature=0.01, top_p=1.0).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("slice_tokens", [7, 2048])
@torch.inference_mode()
def test_greedy_token_is_the_first_most_likely_token_of_the_vocabulary(monkeypatch, slice_tokens):
    monkeypatch.setattr(lm_head, "SLICE_TOKENS", slice_tokens)
    model = toy_model("olmo")
    weight, hidden = model.lm_head.weight, torch.randn(20, 32)
    assert torch.equal(lm_head.greedy_tokens(model, hidden), (hidden @ weight.T).argmax(-1))
    weight[[21, 30, 50]] = 100 * hidden[0]
    assert lm_head.greedy_tokens(model, hidden[:1]).tolist() == [21]


@pytest.mark.parametrize("do_sample", [False, True])
def test_nan_logits_are_refused(do_sample):
    model = toy_model("olmo")
    generate(model, [[1, 2]], max_new_tokens=1, eos_id=EOS)  # the model's ways are compared while it is whole
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    with pytest.raises(UserError, match="NaN"):
        generate(model, [[1, 2]], max_new_tokens=2, eos_id=EOS, do_sample=do_sample)


@pytest.mark.usefixtures("in_flight")
def test_nan_after_the_end_is_not_computed_or_dropped(olmo):
    first, second = decode_greedily(olmo, [1, 2, 3], 2, set())
    model = copy.deepcopy(olmo)
    with torch.no_grad():
        model.get_input_embeddings().weight[second] = float("nan")
    (generated,) = generate(model, [[1, 2, 3]], max_new_tokens=5, eos_id=second)
    assert generated.ids == [first]


def test_empty_prompt_is_refused(olmo):
    with pytest.raises(UserError, match="prompt 1 is empty"):
        generate(olmo, [[1], []], max_new_tokens=2, eos_id=EOS)


def test_no_prompts_give_no_generations(olmo):
    assert generate(olmo, [], max_new_tokens=2, eos_id=EOS) == []
