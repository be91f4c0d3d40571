"""Low-rank adapters: only they are trained, and merging them into the weights keeps the logits."""

from dataclasses import replace

import pytest
import torch
from architectures import build
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from toy_training import largest_difference, output_of, toy_training, weights
from transformers import AutoModelForCausalLM

from open_instruct import finetune, merge_lora
from open_instruct.common.errors import UserError
from open_instruct.common.sidecars import read_sidecar
from open_instruct.training.adapters import add_adapters, num_adapter_weights
from open_instruct.training.memory import model_without_weights
from open_instruct.training.saving import merge_adapter

IDS = torch.tensor([[5, 9, 17, 30, 2, 8, 40]])


@pytest.fixture
def args():
    # Settings with which the adapters change the logits far above rounding.
    return replace(
        toy_training(num_key_value_heads=2),
        use_lora=True,
        lora_rank=4,
        lora_alpha=64,
        lora_dropout=0.1,
        learning_rate=1e-2,
    )


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(IDS).logits


def test_a_merged_adapter_has_the_logits_of_the_adapted_model(args, tmp_path):
    finetune.main(replace(args, output_dir=tmp_path / "adapter", keep_weights="lora"))
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    base = AutoModelForCausalLM.from_pretrained(args.model_name_or_path)
    plain = logits(base)
    adapted = logits(PeftModel.from_pretrained(base, str(tmp_path / "adapter")))
    assert (adapted - plain).abs().max() > 1e-2
    merge_lora.main(merge_lora.Args(str(tmp_path / "adapter"), tmp_path / "merged"))
    merged = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    torch.testing.assert_close(merged, adapted, atol=1e-5, rtol=1e-5)
    assert read_sidecar(tmp_path / "merged")["identity"] == read_sidecar(tmp_path / "adapter")["identity"]
    # By default finetune.py merges the adapter itself.
    finetune.main(args)
    merged = output_of(args)
    assert largest_difference(weights(merged), weights(tmp_path / "merged")) == 0


def test_merged_adapters_from_elsewhere_have_ids_of_their_own(tmp_path):
    outputs = [tmp_path / name / "merged" for name in "ab"]
    ids = [merge_lora.identity(merge_lora.Args("adapter", output), tmp_path)["model_id"] for output in outputs]
    assert len(set(ids)) == 2
    assert all(one.startswith("merged-") for one in ids)


def test_only_the_linear_layers_change(args, tmp_path):
    finetune.main(replace(args, output_dir=tmp_path / "merged"))
    before, after = weights(args.model_name_or_path), weights(tmp_path / "merged")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    projections = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert {name.split(".")[-2] for name in changed} == set(projections)
    assert len(changed) == 2 * len(projections)


@pytest.mark.parametrize("name", ["llama", "olmoe", "falcon", "phimoe"])
def test_the_memory_estimate_counts_the_weights_of_the_adapters(name, tmp_path):
    model = build(tmp_path, name)
    expected = num_adapter_weights(model_without_weights(model.config), rank=4)
    trained = [p for p in add_adapters(model, rank=4, alpha=8, dropout=0.0).parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == expected


def test_packing_does_not_change_trained_adapters(args, tmp_path):
    args = replace(args, lora_dropout=0.0)
    finetune.main(replace(args, output_dir=tmp_path / "padded"))
    finetune.main(replace(args, output_dir=tmp_path / "packed", packing=True))
    assert largest_difference(weights(tmp_path / "padded"), weights(tmp_path / "packed")) < 1e-5


def test_merging_refuses_a_folder_without_adapter_and_another_model(args, tmp_path):
    with pytest.raises(UserError, match=r"expected an adapter, made by finetune\.py --use_lora"):
        merge_lora.main(merge_lora.Args(args.model_name_or_path, tmp_path / "merged"))
    finetune.main(replace(args, output_dir=tmp_path / "adapter", keep_weights="lora"))
    other = toy_training(hidden_size=64)
    with pytest.raises(UserError, match="does not fit the model"):
        merge_lora.main(merge_lora.Args(str(tmp_path / "adapter"), tmp_path / "merged", other.model_name_or_path))


@pytest.mark.parametrize(("name", "left_out"), [("falcon_h1", "out_proj"), ("phimoe", "router")])
def test_linear_layers_that_an_adapter_would_not_add_to_are_left_out(name, left_out, tmp_path):
    adapted = add_adapters(build(tmp_path, name), rank=4, alpha=8, dropout=0.0)
    names = [name for name, _ in adapted.named_modules() if name.endswith("lora_A")]
    assert names
    assert not any(left_out in name for name in names)
    adapted(IDS)


def test_adapters_that_could_not_be_loaded_or_merged_are_refused_before_training(tmp_path):
    with pytest.raises(UserError, match=r"ZambaForCausalLM: several of its layers share a weight"):
        add_adapters(build(tmp_path / "shared", "zamba"), rank=4, alpha=8, dropout=0.0)
    with pytest.raises(UserError, match=r"LagunaForCausalLM: peft loses 6 adapters .*shared_experts"):
        add_adapters(build(tmp_path / "renamed", "laguna"), rank=4, alpha=8, dropout=0.0)


def test_merging_refuses_adapters_that_were_lost_in_loading(tmp_path):
    """Made by peft alone, of a model whose adapters it does not load again."""
    base = build(tmp_path / "base", "laguna")
    get_peft_model(base, LoraConfig(r=4, target_modules="all-linear")).save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match="peft loses 6 adapters"):
        merge_adapter(tmp_path / "base", tmp_path / "adapter")


def test_merging_refuses_an_adapter_without_all_of_its_tensors_or_with_infinite_ones(args, tmp_path):
    """peft only warns of the one, and merges the other."""
    adapter = tmp_path / "adapter"
    finetune.main(replace(args, output_dir=adapter, keep_weights="lora"))
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = min(tensors)
    rest = {key: tensor for key, tensor in tensors.items() if key != name}
    for changed, message in ((rest, "differ on"), (rest | {name: tensors[name] * torch.inf}, "not finite")):
        save_file(changed, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UserError, match=message):
            merge_lora.main(merge_lora.Args(str(adapter), tmp_path / "merged"))
        assert not (tmp_path / "merged").exists()
