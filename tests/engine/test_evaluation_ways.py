"""A way that computes otherwise than the plain forward pass is not taken: each fault is planted here once."""

import re
from dataclasses import fields, is_dataclass

import pytest
import torch
from plain_evaluation import decode_greedily, plain_score
from torch import nn
from toy_families import FAMILIES, other_family, toy_model
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

from eval.engine import (
    continuous_batching,
    generation,
    kv_cache,
    log_likelihood,
    padded_scoring,
    plain_generation,
    prefix_attention,
)
from eval.engine.generation import generate
from eval.engine.log_likelihood import Request, score
from eval.engine.ways import ALONE, GENERATE, OWN_CACHE, PADDED, PREFIX_TREE, WITHOUT_CACHE, ways
from open_instruct.common import plain_pass
from open_instruct.common.errors import UserError
from open_instruct.common.plain_pass import attention_window, rope_switch

EOS = 63
REQUESTS = [
    Request([5, 9, 12, 40], [[3, 4, 7], [3, 8], [22]]),
    Request([5, 9, 13], [[50, 2, 1, 30, 31]]),
    Request([17], [[18]]),
]
PROMPTS = [[5, 9, 12, 40], [5, 9, 13], [17, 18, 19], [44], [5, 9, 12, 41]]
SHARED = [[*range(1, 41), *prompt] for prompt in PROMPTS]


def assert_scores_are_plain(model):
    for request, scores in zip(REQUESTS, score(model, REQUESTS), strict=True):
        expected = [plain_score(model, request.context, continuation) for continuation in request.continuations]
        assert [each.sum_logits for each in scores] == pytest.approx([total for total, _ in expected], abs=1e-3)
        assert [each.is_greedy for each in scores] == [greedy for _, greedy in expected]


def assert_texts_are_plain(model, prompts=PROMPTS):
    found = generate(model, prompts, max_new_tokens=6, eos_id=EOS, stop_ids=[7, 11])
    for prompt, each in zip(prompts, found, strict=True):
        expected = decode_greedily(model, prompt, 6, {EOS, 7, 11})
        assert each.ids == (expected[:-1] if expected[-1] == EOS else expected)
        assert each.finished == (expected[-1] in {EOS, 7, 11})


def way(model, task):
    return ways(model)[task].split(" (")[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_families_of_the_studies_take_the_fast_ways(family):
    model = toy_model(family)
    assert_scores_are_plain(model)
    assert_texts_are_plain(model)
    assert ways(model) == {"log-likelihoods": PREFIX_TREE, "generation": OWN_CACHE}
    assert_texts_are_plain(model, SHARED)
    assert ways(model)["generation"] == OWN_CACHE


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("bloom", {"n_layer": 2, "n_head": 4}),  # attention of its own
        ("mamba", {"state_size": 4}),  # recurrent
        ("gemma2", {"head_dim": 8, "num_key_value_heads": 2}),  # caps logits and attention scores
    ],
)
def test_other_architectures_take_a_plain_way_and_are_right(kind, settings):
    model = other_family(kind, **settings)
    assert_scores_are_plain(model)
    assert_texts_are_plain(model)
    assert_texts_are_plain(model, SHARED)
    assert way(model, "log-likelihoods") == PADDED
    assert way(model, "generation") == GENERATE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_the_noise_of_half_precision_would_hide_is_seen(dtype):
    model = toy_model("olmo").to(dtype)
    model.model.layers[0].mlp = NextTo(model.model.layers[0].mlp, share=0.02)
    before = {name: (each.dtype, each.clone()) for name, each in model.state_dict().items()}
    score(model, REQUESTS)
    generate(model, PROMPTS, max_new_tokens=2, eos_id=EOS)
    assert way(model, "log-likelihoods") == PADDED
    assert way(model, "generation") == WITHOUT_CACHE
    for name, (own, values) in before.items():
        assert model.state_dict()[name].dtype == own
        assert model.state_dict()[name].equal(values)
    assert not any(parameter.is_inference() for parameter in model.parameters())


def test_half_precision_takes_the_fast_ways_of_float32_or_plain_ones_without_memory(monkeypatch):
    model = toy_model("olmo").bfloat16()
    score(model, REQUESTS)
    generate(model, PROMPTS, max_new_tokens=2, eos_id=EOS)
    assert ways(model) == {"log-likelihoods": PREFIX_TREE, "generation": OWN_CACHE}

    def without_memory(tensors):
        if any(dtype is torch.float32 for _, dtype in tensors):
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(plain_pass, "convert", without_memory)
    model = toy_model("olmo").bfloat16()
    score(model, REQUESTS)
    assert way(model, "log-likelihoods") == ALONE
    assert "prefix tree cannot be compared in float32" in ways(model)["log-likelihoods"]


def test_a_model_that_sees_later_tokens_is_refused():
    model = other_family("bert")
    with pytest.raises(UserError, match=r"BertLMHeadModel: .* changes by .* nats with the tokens after it"):
        score(model, REQUESTS)
    with pytest.raises(UserError, match="changes by"):
        generate(model, PROMPTS, max_new_tokens=2, eos_id=EOS)


class NextTo(nn.Module):
    """An MLP that adds to each token the state of the one before it in the batch's rows."""

    def __init__(self, mlp, share=1.0):
        super().__init__()
        self.mlp, self.share = mlp, share

    def forward(self, hidden):
        return self.mlp(hidden) + self.share * nn.functional.pad(hidden, (0, 0, 1, 0))[:, :-1]


def test_texts_that_see_each_other_end_to_end_are_not_computed_so():
    model = toy_model("olmo")
    model.model.layers[0].mlp = NextTo(model.model.layers[0].mlp)
    assert_scores_are_plain(model)
    assert way(model, "log-likelihoods") == PADDED
    assert "prefix tree differs by" in ways(model)["log-likelihoods"]
    generate(model, PROMPTS, max_new_tokens=2, eos_id=EOS)
    assert way(model, "generation") == WITHOUT_CACHE  # no cache knows of such a state
    assert_texts_are_plain(model)


class OfTheBatch(nn.Module):
    """An MLP that adds the mean over the batch's rows and positions."""

    def __init__(self, mlp):
        super().__init__()
        self.mlp = mlp

    def forward(self, hidden):
        length = torch.arange(1, hidden.shape[1] + 1, device=hidden.device)[None, :, None]
        return self.mlp(hidden) + (hidden.cumsum(1) / length).mean(0, keepdim=True)


def test_rows_that_see_each_other_are_scored_alone():
    model = toy_model("olmo")
    model.model.layers[0].mlp = OfTheBatch(model.model.layers[0].mlp)
    assert_scores_are_plain(model)
    assert way(model, "log-likelihoods") == ALONE
    with pytest.raises(UserError, match=r"no generation is right for this model \(own .*; transformers' .*; generate "):
        generate(model, PROMPTS, max_new_tokens=2, eos_id=EOS)


def test_logits_that_the_model_transforms_after_its_head_are_seen():
    model = toy_model("olmo")
    forward = model.forward

    def transformed(input_ids, **options):
        output = forward(input_ids=input_ids, **options)
        return type(output)(logits=output.logits / 3, past_key_values=output.past_key_values)

    model.forward = transformed
    assert_scores_are_plain(model)
    assert way(model, "log-likelihoods") == PADDED


@pytest.mark.parametrize(
    ("module", "name", "fault"),
    [
        (
            log_likelihood,
            "forward",
            lambda right: lambda model, tree, *rest: right(model, without_positions(tree), *rest),
        ),
        (kv_cache, "mask_after", lambda right: lambda places, *rest: right(places - 1, *rest)),
        (continuous_batching, "forward", lambda right: lambda m, tree, *rest: right(m, without_positions(tree), *rest)),
    ],
)
def test_a_fault_of_our_own_is_seen(monkeypatch, module, name, fault):
    model = toy_model("olmo")
    monkeypatch.setattr(module, name, fault(getattr(module, name)))
    assert_scores_are_plain(model)
    assert_texts_are_plain(model)
    fast = {"log-likelihoods": PREFIX_TREE, "generation": OWN_CACHE}
    assert ways(model) != fast


def without_positions(tree):
    tree.positions[:] = [0] * len(tree.positions)
    return tree


def test_a_fault_of_the_shared_prefix_alone_is_seen(monkeypatch):
    model = toy_model("olmo")
    monkeypatch.setattr(prefix_attention.TokenStates, "num_tokens", property(lambda states: len(states.hidden) // 2))
    assert_texts_are_plain(model, SHARED)
    assert way(model, "generation") == GENERATE


@pytest.mark.parametrize("way_module", [padded_scoring, plain_generation])
def test_running_out_of_memory_makes_plain_batches_smaller(monkeypatch, way_module):
    model = other_family("bloom", n_layer=2, n_head=4)
    generate(model, PROMPTS, max_new_tokens=1, eos_id=EOS)
    expected = score(model, REQUESTS), generate(model, [[1, 2], [3, 4], [5, 6]], max_new_tokens=3, eos_id=EOS)
    forward, sizes = model.forward, []

    def with_little_memory(input_ids, **options):
        if len(input_ids) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(input_ids))
        return forward(input_ids=input_ids, **options)

    monkeypatch.setattr(model, "forward", with_little_memory)
    found = score(model, REQUESTS), generate(model, [[1, 2], [3, 4], [5, 6]], max_new_tokens=3, eos_id=EOS)
    assert found[1] == expected[1]
    for scores, others in zip(found[0], expected[0], strict=True):
        assert [s.sum_logits for s in scores] == pytest.approx([o.sum_logits for o in others], abs=1e-4)


def test_samples_of_the_plain_way_are_those_of_the_fast_one(monkeypatch):
    prompts = [[1, 2, 3], [4, 5], [6, 7, 8]]
    options = {"max_new_tokens": 8, "eos_id": EOS, "do_sample": True, "temperature": 0.8, "top_p": 0.9, "seed": 3}
    expected = generate(toy_model("olmo"), prompts, **options)
    monkeypatch.setattr(generation, "generate_in_rows", None)
    model = toy_model("olmo")
    assert generate(model, prompts, **options) == expected
    assert way(model, "generation") == GENERATE


def test_settings_of_generation_in_the_folder_change_nothing():
    model = other_family("mamba", state_size=4)
    model.generation_config.repetition_penalty, model.generation_config.min_length = 5.0, 10
    assert_texts_are_plain(model)
    assert model.generation_config.repetition_penalty == 5.0


def test_lengths_that_a_short_probe_cannot_vouch_for_take_a_plain_way():
    window = other_family("mistral", sliding_window=5, num_key_value_heads=2)
    assert_scores_are_plain(window)
    assert_texts_are_plain(window)
    assert ways(window)["log-likelihoods"] == f"{PADDED} ({PREFIX_TREE}: 7 tokens exceed the attention window of 5)"
    longrope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [3.0] * 4}
    changing = other_family("phi3", rope_parameters=longrope, original_max_position_embeddings=3)
    assert_scores_are_plain(changing)
    assert_texts_are_plain(changing)
    assert (way(changing, "log-likelihoods"), way(changing, "generation")) == (ALONE, WITHOUT_CACHE)


def test_rotary_embeddings_that_remember_lengths_are_refused_beyond_them():
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10_000.0}
    model = other_family("llama", rope_parameters=rope, max_position_embeddings=8)
    assert_scores_are_plain(model)
    assert way(model, "log-likelihoods") == PREFIX_TREE
    with pytest.raises(UserError, match=r"LlamaForCausalLM: no log-likelihoods .* beyond 8 tokens, a sequence has 9"):
        score(model, [Request([1] * 9, [[2]])])


def test_windows_and_changing_rotary_embeddings_of_configs():
    assert attention_window(AutoConfig.for_model("qwen2")) is None  # max_window_layers is a number of layers
    assert attention_window(AutoConfig.for_model("gpt_neo")) == 256
    assert attention_window(AutoConfig.for_model("gemma3_text", sliding_window=77)) == 77
    assert rope_switch(AutoConfig.for_model("llama")) is None
    longrope = {"rope_type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48, "rope_theta": 1e4}
    assert rope_switch(AutoConfig.for_model("phi3", rope_parameters=longrope)) == 4096


def test_every_field_that_bounds_attention_or_transforms_logits_is_known():
    parts = {part for config in MODEL_FOR_CAUSAL_LM_MAPPING for part in (config, config.sub_configs.get("text_config"))}
    names = {field.name for part in parts if is_dataclass(part) for field in fields(part)}
    bounds = {name for name in names if re.search("window|att.*chunk_(size|len)|budget|index.*topk", name)}
    of_logits = {name for name in names if re.search("logits?_.*(cap|scal|mult)|lm_head_mult", name)}
    # Numbers of layers and of blocks.
    no_bounds = {
        "max_window_layers",
        "sliding_window_pattern",
        "prefix_dense_sliding_window_pattern",
        "index_topk_blocks",
    }
    inside = {"attn_logit_softcapping", "moe_router_logit_softcapping"}  # of the model: the probe sees them
    assert {name for name in bounds if not plain_pass.WINDOW.fullmatch(name)} - no_bounds == set()
    assert of_logits - inside == set(plain_pass.LOGIT_OPTIONS)
