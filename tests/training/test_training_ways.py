"""A way that gives other losses than the model's plain forward pass is not taken: each fault is planted here once."""

from dataclasses import replace

import pytest
import torch
from architectures import build, config_of
from torch import nn
from torch.nn.functional import cross_entropy
from toy_examples import examples
from toy_families import FAMILIES, other_family, toy_model
from toy_models import toy_tokenizer
from toy_training import largest_difference, output_of, toy_training, weights
from transformers import AttentionInterface, AutoModelForCausalLM

from open_instruct import finetune
from open_instruct.common.errors import UserError
from open_instruct.common.sidecars import read_sidecar
from open_instruct.data.encode import IGNORED, Encoded
from open_instruct.training.attention import WITHOUT_MASK, attention_without_mask
from open_instruct.training.batches import micro_batches
from open_instruct.training.loss import TargetLoss
from open_instruct.training.steps import MicroBatchLimits
from open_instruct.training.ways import choose_way

VOCAB_SIZE = 64


def toy_batch():
    """Examples of unequal lengths, in the vocabulary of the toy families."""
    return [
        Encoded([i % VOCAB_SIZE for i in each.ids], [i if i == IGNORED else i % VOCAB_SIZE for i in each.labels])
        for each in examples()
    ]


def choose(model, *, packing=False, prefers_no_mask=False, longest=12):
    return choose_way(model, packing=packing, prefers_no_mask=prefers_no_mask, longest=longest)


def assert_gradients_are_plain(model, way):
    """Of all examples in the micro-batches of this way, against each example alone in the model's own forward pass."""
    max_examples = 1 if way.is_alone else None
    loss = TargetLoss(model, way.shortcut)
    for batch in micro_batches(toy_batch(), MicroBatchLimits(1_000, max_examples, packing=way.packing)):
        loss(*batch).backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.set_attn_implementation("eager")
    for example in toy_batch():
        logits = model(input_ids=torch.tensor([example.ids[:-1]]), use_cache=False).logits[0]
        cross_entropy(logits, torch.tensor(example.labels[1:]), ignore_index=IGNORED, reduction="sum").backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and parameter.grad.abs().max() > 1e-4:
            assert (found[name] - parameter.grad).abs().max() < 1e-3 * parameter.grad.abs().max(), name


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_families_of_the_studies_take_the_fast_way(family, packing):
    model = toy_model(family)
    way = choose(model, packing=packing)
    assert (way.packing, way.shortcut, way.reasons) == (packing, "head and last MLP", ())
    assert_gradients_are_plain(model, way)


OTHERS = [
    ("bloom", {"n_layer": 2, "n_head": 4}, False, "head"),  # attention of its own
    ("mamba", {"state_size": 4}, False, "head"),  # recurrent
    ("gemma2", {"head_dim": 8, "num_key_value_heads": 2}, False, "none"),  # caps logits and attention scores
    ("olmoe", {"num_experts": 4, "num_experts_per_tok": 2}, True, "head and last MLP"),
    ("mixtral", {"num_local_experts": 4, "num_key_value_heads": 2}, True, "head and last MLP"),
]


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize(("kind", "settings", "can_pack", "shortcut"), OTHERS)
def test_other_architectures_take_the_way_that_is_right(kind, settings, can_pack, shortcut, packing):
    model = other_family(kind, **settings)
    way = choose(model, packing=packing)
    assert way.packing == (packing and can_pack)
    assert way.shortcut == shortcut
    assert_gradients_are_plain(model, way)


@pytest.fixture
def replace_attention():
    """A function that puts another one in the place of attention without a mask."""
    yield lambda other: AttentionInterface.register(WITHOUT_MASK, other)
    AttentionInterface.register(WITHOUT_MASK, attention_without_mask)


def test_packed_examples_that_see_each_other_are_padded(replace_attention):
    def ignoring_lengths(*tensors, lengths=None, **options):
        return attention_without_mask(*tensors, **options)

    replace_attention(ignoring_lengths)
    model = toy_model("olmo")
    way = choose(model, packing=True, prefers_no_mask=True)
    assert (way.packing, way.attention) == (False, WITHOUT_MASK)
    assert "packed, attention without a mask, head and last MLP at targets only differs by" in str(way)
    assert_gradients_are_plain(model, way)


def test_a_model_whose_padded_examples_need_a_mask_keeps_its_own_attention(replace_attention):
    def not_causal(module, query, key, value, mask, **options):
        return value.transpose(1, 2), None

    replace_attention(not_causal)
    model = toy_model("olmo")
    way = choose(model, prefers_no_mask=True)
    assert way.attention == model.config._attn_implementation == "sdpa"
    assert_gradients_are_plain(model, way)


class Mixing(nn.Module):
    """An MLP in which each position sees those before it."""

    def forward(self, hidden):
        return hidden + hidden.cumsum(-2)


def test_a_last_mlp_that_mixes_positions_is_computed_at_all_of_them():
    model = toy_model("olmo")
    model.model.layers[-1].mlp = Mixing()
    way = choose(model)
    assert way.shortcut == "head"
    assert_gradients_are_plain(model, way)


def test_logits_that_the_model_transforms_after_its_head_are_its_own():
    model = toy_model("olmo")
    forward = model.forward

    def transformed(input_ids, **options):
        output = forward(input_ids=input_ids, **options)
        return type(output)(logits=output.logits / 3)

    model.forward = transformed
    way = choose(model)
    assert way.shortcut == "none"
    assert_gradients_are_plain(model, way)


class OfTheBatch(nn.Module):
    """An MLP that adds the mean over the rows of the batch."""

    def forward(self, hidden):
        return hidden + hidden.mean(0, keepdim=True)


def test_rows_that_see_each_other_are_trained_alone():
    model = toy_model("olmo")
    model.model.layers[0].mlp = OfTheBatch()
    way = choose(model, prefers_no_mask=True)
    assert way.is_alone
    assert_gradients_are_plain(model, way)


def test_a_model_that_sees_later_tokens_is_refused():
    with pytest.raises(UserError, match=r"BertLMHeadModel: .* changes by .* nats with the tokens after it"):
        choose(other_family("bert"))


def test_choosing_a_way_leaves_random_numbers_alone():
    model = other_family("gpt2", resid_pdrop=0.5, embd_pdrop=0.5)
    torch.manual_seed(3)
    choose(model)
    found = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(found, torch.rand(3))


def test_examples_beyond_the_window_are_not_packed():
    assert choose(other_family("mistral", sliding_window=8, num_key_value_heads=2), packing=True, longest=8).packing
    model = other_family("mistral", sliding_window=8, num_key_value_heads=2)
    way = choose(model, packing=True, prefers_no_mask=True, longest=12)
    assert (way.packing, way.attention) == (False, "sdpa")
    assert "12 tokens exceeds the attention window of 8" in str(way)
    assert_gradients_are_plain(model, way)


def test_rotary_embeddings_that_change_with_the_batch_are_trained_alone_or_refused():
    longrope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [3.0] * 4}
    model = other_family("phi3", rope_parameters=longrope, original_max_position_embeddings=2)
    way = choose(model, packing=True)
    assert way.is_alone
    assert_gradients_are_plain(model, way)
    dynamic = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    model = other_family("llama", rope_parameters=dynamic, max_position_embeddings=8)
    with pytest.raises(UserError, match=r"12 tokens, and the losses of examples beyond 8 .* --max_seq_length 8"):
        choose(model)


def test_a_run_says_which_way_it_took_and_has_the_weights_of_the_plain_one(capsys):
    args = toy_training()
    finetune.main(args)
    expected = weights(output_of(args))
    assert read_sidecar(output_of(args))["computed_by"] == "padded, head and last MLP at targets only"

    def ignoring_lengths(*tensors, lengths=None, **options):
        return attention_without_mask(*tensors, **options)

    AttentionInterface.register(WITHOUT_MASK, ignoring_lengths)
    try:
        finetune.main(replace(args, packing=True, overwrite=True))
    finally:
        AttentionInterface.register(WITHOUT_MASK, attention_without_mask)
    assert "training by: padded, head and last MLP at targets only (packed, " in capsys.readouterr().out
    assert read_sidecar(output_of(args))["computed_by"].startswith("padded, head and last MLP at targets only (packed")
    assert largest_difference(weights(output_of(args)), expected) == 0


def test_a_model_that_takes_other_lengths_in_training_is_refused(tmp_path):
    model = build(tmp_path, "reformer, decoder")
    with pytest.raises(
        UserError, match=r"ReformerModelWithLMHead: its forward pass in training fails .*axial_pos_shape"
    ):
        choose(model)


@pytest.mark.parametrize("kind", ["lfm2", "jamba", "bloom", "zamba", "doge"])
def test_a_model_that_has_learned_nothing_is_not_packed_where_examples_would_see_each_other(tmp_path, kind):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(kind, toy_tokenizer(tmp_path))).eval()  # nearly uniform
    assert not choose(model, packing=True).packing
    with pytest.raises(UserError, match="changes by"):
        choose(AutoModelForCausalLM.from_config(config_of("bert", toy_tokenizer(tmp_path))))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_has_learned_nothing_is_packed_where_that_is_right(family):
    model = toy_model(family)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=0.02)
    assert choose(model, packing=True).name == "packed, attention without a mask, head and last MLP at targets only"
