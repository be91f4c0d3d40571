"""The memory estimate: beside what autograd really keeps, what devices share, and what a control group leaves."""

import pytest
import torch
from toy_models import toy_olmo

from open_instruct.common.errors import UserError
from open_instruct.data.encode import Encoded
from open_instruct.training import memory
from open_instruct.training.batches import pad
from open_instruct.training.loss import TargetLoss
from open_instruct.training.memory import GB, Need, estimate, require

SETTINGS = {"half_precision": False, "gradient_checkpointing": False, "lora_rank": None}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    sizes = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "vocab_size": 1000}
    return toy_olmo(tmp_path_factory.mktemp("model"), **sizes)


def kept_by_autograd(model, examples: list[Encoded]) -> int:
    """Bytes of all that the backward pass will read, weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = TargetLoss(model)(*pad(examples))
    assert loss.requires_grad
    return sum(kept.values())


def test_the_estimate_is_near_what_is_kept(model):
    examples = [Encoded([5] * 60, [-100] * 40 + [5] * 20)] * 4
    need = estimate(model.config, num_tokens=4 * 59, num_targets=80, **SETTINGS)
    num_weights = sum(p.numel() for p in model.parameters())
    assert need.weights == need.gradients == need.optimizer / 2 == 4 * num_weights
    kept = kept_by_autograd(model, examples)
    # Of logits two copies are kept, the third comes and goes in the backward pass.
    assert 0.9 < (need.activations + need.logits * 2 / 3) / kept < 1.3


def test_checkpointing_adapters_and_devices_lower_it(model):
    config, size = model.config, {"num_tokens": 1000, "num_targets": 100}
    plain = estimate(config, **size, **SETTINGS)
    assert estimate(config, **size, **(SETTINGS | {"gradient_checkpointing": True})).activations < plain.activations / 2
    adapters = estimate(config, **size, **(SETTINGS | {"lora_rank": 4}))
    assert adapters.gradients < plain.gradients / 4
    assert adapters.weights == plain.weights
    shared = estimate(config, **size, **SETTINGS, num_shards=4)
    assert (shared.weights, shared.optimizer, shared.activations) == (
        plain.weights / 4,
        plain.optimizer / 4,
        plain.activations,
    )


def test_what_cannot_fit_names_only_what_would_help():
    need = Need(weights=4 * GB, gradients=4 * GB, optimizer=8 * GB, activations=6 * GB, logits=1 * GB)
    require(need, int(24 * GB))
    with pytest.raises(UserError, match=r"about 23 GB = weights 4 .* 20 GB are free; what helps: --max_tokens_per_bat"):
        require(need, int(20 * GB))
    # Fewer tokens do not make the weights smaller.
    with pytest.raises(UserError, match=r"what helps: --use_lora; more devices"):
        require(need, int(10 * GB))


def test_processes_of_a_machine_share_what_its_control_group_leaves(monkeypatch):
    monkeypatch.setattr(memory, "control_group_limits", lambda: [float("inf"), 1000.0])
    assert memory.available(torch.device("cpu"), num_local_processes=2) == 500
