"""The memory estimate compared with what autograd stores; options that reduce it; limits of control groups."""

import pytest
import torch
from architectures import config_of
from toy_models import toy_olmo, toy_tokenizer
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig

from open_instruct.common.errors import UserError
from open_instruct.data.encode import Encoded
from open_instruct.training import memory
from open_instruct.training.adapters import add_adapters
from open_instruct.training.batches import collate
from open_instruct.training.loss import TargetLoss
from open_instruct.training.memory import GB, MemoryEstimate, check_fits, estimate

SETTINGS = {"half_precision": False, "gradient_checkpointing": False, "lora_rank": None, "gradients_remain": False}
SIZES = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "vocab_size": 1000}


@pytest.fixture
def model(tmp_path):
    return toy_olmo(tmp_path, **SIZES)


@pytest.fixture
def models(model):
    """By family, with a head of its own in one."""
    torch.manual_seed(0)
    kinds = {"llama": LlamaConfig, "neox": GPTNeoXConfig}
    configs = {name: kind(**SIZES, num_attention_heads=4) for name, kind in kinds.items()}
    return {"olmo": model} | {name: AutoModelForCausalLM.from_config(config) for name, config in configs.items()}


def stored_by_autograd(model, examples: list[Encoded], *, half: bool) -> int:
    """Bytes of the tensors saved for the backward pass, without weights, with their copies in bfloat16."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    stored: dict[int, torch.UntypedStorage] = {}

    def store(tensor):
        storage = tensor.untyped_storage()  # kept, so that no other gets its address
        if storage.data_ptr() not in weights:
            stored[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(store, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = TargetLoss(model)(*collate(examples, packing=False))
        assert loss.requires_grad
    return sum(storage.nbytes() for storage in stored.values())


@pytest.mark.parametrize("options", [{}, {"gradient_checkpointing": True}, {"lora_rank": 4}])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("family", ["olmo", "llama", "neox"])
def test_the_estimate_is_within_15_percent_of_what_autograd_stores(models, monkeypatch, family, half, options):
    model = models[family].train()
    settings = SETTINGS | {"half_precision": half} | options
    need = estimate(model.config, num_tokens=4 * 59, num_targets=80, **settings)
    # One of three copies of the logits is stored; the others exist for a moment.
    expected = need.activations + need.logits / 3
    if "gradient_checkpointing" in options:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        # The backward pass stores one layer, and copies of weights, again.
        copies = 2 * sum(m.weight.numel() for m in memory.linear_layers(model)) if half else 0
        expected -= 4 * 59 * sum(memory.stored_bytes(model, half_precision=half, lora_rank=None)) + copies
    if "lora_rank" in options:
        # The dropout of GPUs stores a mask; that of CPUs stores its numbers.
        monkeypatch.setattr(torch.nn.functional, "dropout", lambda x, p, on, _: torch.native_dropout(x, p, on)[0])
        model = add_adapters(model, rank=4, alpha=4, dropout=0.1)
    examples = [Encoded([5] * 60, [-100] * 40 + [5] * 20)] * 4
    assert expected == pytest.approx(stored_by_autograd(model, examples, half=half), rel=0.15)


def test_the_peak_is_at_the_begin_or_the_end_of_the_backward_pass():
    sizes = {"weights": 4, "gradients": 4, "optimizer": 8, "activations": 6, "logits": 1, "head_gradient": 0.5}
    assert MemoryEstimate(**sizes).total == 4 + 8 + 0.5 + 6 + 1
    assert MemoryEstimate(**(sizes | {"activations": 1})).total == 4 + 8 + 0.5 + 4
    assert MemoryEstimate(**sizes, gradients_remain=True).total == 4 + 8 + 0.5 + 6 + 1 + 4


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


@pytest.mark.parametrize("name", ["gemma4", "mamba", "olmoe", "dots3_note_text", "got_ocr2"])
@pytest.mark.parametrize("options", [{}, {"gradient_checkpointing": True, "lora_rank": 4, "half_precision": True}])
def test_other_architectures_get_a_rough_estimate_that_refuses_by_weights_only(name, options, tmp_path):
    config = config_of(name, toy_tokenizer(tmp_path))
    need = estimate(config, num_tokens=1000, num_targets=100, **(SETTINGS | options))
    assert need.is_rough
    assert need.activations > 0
    assert "activations roughly" in str(need)
    fixed = need.weights + need.gradients + need.optimizer
    check_fits(need, int(fixed) + 1)
    with pytest.raises(UserError, match="what helps"):
        check_fits(need, int(fixed) - 1)


def test_the_linear_layers_of_gpt2_count_as_such(tmp_path):
    config = config_of("gpt2", toy_tokenizer(tmp_path))
    model = AutoModelForCausalLM.from_config(config)
    trained = [p for p in add_adapters(model, rank=4, alpha=4, dropout=0.0).parameters() if p.requires_grad]
    need = estimate(config, num_tokens=1000, num_targets=100, **(SETTINGS | {"lora_rank": 4}))
    assert not need.is_rough
    assert need.gradients == 4 * sum(p.numel() for p in trained)


def test_a_model_that_transformers_cannot_build_is_refused_by_name(tmp_path):
    config = config_of("reformer", toy_tokenizer(tmp_path))
    with pytest.raises(UserError, match=r"cannot build a causal language model of type reformer .*is_decoder=True"):
        estimate(config, num_tokens=1000, num_targets=100, **SETTINGS)


def test_the_error_names_only_options_that_help():
    need = MemoryEstimate(weights=4 * GB, gradients=4 * GB, optimizer=8 * GB, activations=6 * GB, logits=1 * GB)
    check_fits(need, int(19 * GB))
    with pytest.raises(UserError, match=r"about 19 GB \(weights 4, .* 17 GB are free; what helps: --max_tokens_per"):
        check_fits(need, int(17 * GB))
    # Fewer tokens per batch do not reduce the weights.
    with pytest.raises(UserError, match=r"what helps: --use_lora; more devices"):
        check_fits(need, int(10 * GB))


def test_processes_divide_the_free_memory_of_their_control_group(monkeypatch):
    monkeypatch.setattr(memory, "control_group_free_bytes", lambda: [float("inf"), 1000.0])
    assert memory.available_bytes(torch.device("cpu"), num_local_processes=2) == 500
