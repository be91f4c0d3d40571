"""The loss of the targets equals that of the model's ordinary forward pass, in value and gradients."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from toy_examples import LENGTHS, examples
from toy_models import toy_olmo
from transformers import BloomConfig, GPT2Config, OlmoConfig

from open_instruct.common.errors import UserError
from open_instruct.data.encode import IGNORED, Encoded
from open_instruct.training import loss as loss_module
from open_instruct.training.batches import collate
from open_instruct.training.loss import TargetLoss, last_mlp
from open_instruct.training.model import require_positions


@pytest.fixture
def make_model(tmp_path):
    # Large weights: a position that is left out would show.
    return lambda **config: toy_olmo(tmp_path, initializer_range=0.3, **config)


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_loss_and_gradients_equal_those_of_a_full_forward_pass(make_model, tied, half, device):
    batch = collate(examples(), packing=False).to(device)
    model, plain = (make_model(tie_word_embeddings=tied).to(device) for _ in range(2))
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        loss = TargetLoss(model)(*batch)
        logits = plain(input_ids=batch.ids).logits.float()
    expected = cross_entropy(logits.flatten(0, 1)[batch.places], batch.targets, reduction="sum")
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3 if half else 1e-5)
    for (name, parameter), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        difference = (parameter.grad - other.grad).abs().max() / other.grad.abs().max()
        assert difference < (2e-2 if half else 1e-4), name


def test_the_last_mlp_is_computed_at_targets_only(make_model):
    model = make_model()
    mlp = model.model.layers[-1].mlp
    assert last_mlp(model) is mlp
    computed = []
    mlp.gate_proj.register_forward_pre_hook(lambda _, inputs: computed.append(inputs[0].shape[:-1].numel()))
    TargetLoss(model)(*collate(examples(), packing=False))
    assert computed == [sum(example.num_targets for example in examples())]
    assert computed[0] < len(LENGTHS) * (max(LENGTHS) - 1)


def test_the_model_is_unchanged_after_a_loss(make_model):
    model = make_model()
    ids = torch.arange(5)[None]
    before = model(ids).logits
    TargetLoss(model)(*collate([Encoded([1, 2, 3, 4, 5], [IGNORED] * 3 + [4, 5])], packing=False))
    assert torch.equal(model(ids).logits, before)


def test_a_batch_without_targets_has_gradients_of_zero(make_model):
    loss = TargetLoss(make_model())
    loss(*collate([Encoded([1, 2, 3], [IGNORED] * 3)], packing=False)).backward()
    assert all(p.grad is not None and not p.grad.any() for p in loss.parameters() if p.requires_grad)


@pytest.mark.parametrize("config", [GPT2Config(n_positions=10), OlmoConfig(max_position_embeddings=10)])
def test_examples_beyond_the_models_positions_are_refused(config):
    require_positions(config, longest=11)  # the last token is no input
    with pytest.raises(UserError, match=r"has 12 tokens, and the model takes 10; .* --max_seq_length 10"):
        require_positions(config, longest=12)
    require_positions(BloomConfig(), longest=10**6)


@pytest.mark.parametrize("num_at_once", [1, 3, 1000])
def test_the_number_of_logits_in_memory_changes_no_gradient(make_model, monkeypatch, num_at_once):
    gradients = []
    for max_logits in (2**28, num_at_once * make_model().config.vocab_size):
        monkeypatch.setattr(loss_module, "MAX_LOGITS", max_logits)
        loss = TargetLoss(make_model())
        loss(*collate(examples(), packing=False)).backward()
        gradients.append([parameter.grad for parameter in loss.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_logits_in_parts_leave_the_state_of_random_numbers_alone(make_model, monkeypatch):
    loss = TargetLoss(make_model())
    monkeypatch.setattr(loss_module, "MAX_LOGITS", 1)
    # Reading it fails while a CUDA graph is captured.
    monkeypatch.setattr(torch, "get_rng_state", None)
    loss(*collate(examples(), packing=False)).backward()
    assert all(parameter.grad is not None for parameter in loss.parameters())
