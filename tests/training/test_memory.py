"""The memory estimate compared with what autograd stores; options that reduce it; limits of control groups."""

import pytest
import torch
from toy_models import toy_olmo

from open_instruct.common.errors import UserError
from open_instruct.data.encode import Encoded
from open_instruct.training import memory
from open_instruct.training.batches import collate
from open_instruct.training.loss import TargetLoss
from open_instruct.training.memory import GB, MemoryEstimate, check_fits, estimate

SETTINGS = {"half_precision": False, "gradient_checkpointing": False, "lora_rank": None}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    sizes = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "vocab_size": 1000}
    return toy_olmo(tmp_path_factory.mktemp("model"), **sizes)


def stored_by_autograd(model, examples: list[Encoded]) -> int:
    """Bytes of the tensors saved for the backward pass, without weights."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    stored: dict[int, int] = {}

    def store(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            stored[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(store, lambda tensor: tensor):
        loss = TargetLoss(model)(*collate(examples, packing=False))
    assert loss.requires_grad
    return sum(stored.values())


def test_the_estimate_is_within_30_percent_of_what_autograd_stores(model):
    examples = [Encoded([5] * 60, [-100] * 40 + [5] * 20)] * 4
    need = estimate(model.config, num_tokens=4 * 59, num_targets=80, **SETTINGS)
    num_weights = sum(p.numel() for p in model.parameters())
    assert need.weights == need.gradients == need.optimizer / 2 == 4 * num_weights
    stored = stored_by_autograd(model, examples)
    # Two copies of the logits are stored; the third exists during the backward pass only.
    assert 0.9 < (need.activations + need.logits * 2 / 3) / stored < 1.3


def test_checkpointing_adapters_and_more_devices_reduce_the_estimate(model):
    config, size = model.config, {"num_tokens": 1000, "num_targets": 100}
    plain = estimate(config, **size, **SETTINGS)
    assert estimate(config, **size, **(SETTINGS | {"gradient_checkpointing": True})).activations < plain.activations / 2
    adapters = estimate(config, **size, **(SETTINGS | {"lora_rank": 4}))
    assert adapters.gradients < plain.gradients / 4
    assert adapters.weights == plain.weights
    sharded = estimate(config, **size, **SETTINGS, num_shards=4)
    assert (sharded.weights, sharded.optimizer, sharded.activations) == (
        plain.weights / 4,
        plain.optimizer / 4,
        plain.activations,
    )


def test_the_error_names_only_options_that_help():
    need = MemoryEstimate(weights=4 * GB, gradients=4 * GB, optimizer=8 * GB, activations=6 * GB, logits=1 * GB)
    check_fits(need, int(24 * GB))
    with pytest.raises(UserError, match=r"about 23 GB = weights 4 .* 20 GB are free; what helps: --max_tokens_per_bat"):
        check_fits(need, int(20 * GB))
    # Fewer tokens per batch do not reduce the weights.
    with pytest.raises(UserError, match=r"what helps: --use_lora; more devices"):
        check_fits(need, int(10 * GB))


def test_processes_divide_the_free_memory_of_their_control_group(monkeypatch):
    monkeypatch.setattr(memory, "control_group_free_bytes", lambda: [float("inf"), 1000.0])
    assert memory.available_bytes(torch.device("cpu"), num_local_processes=2) == 500
