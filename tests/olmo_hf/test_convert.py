"""Conversion from OLMo's own format: correct for every supported model; wrong mappings are detected."""

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from toy_conversion import (
    KINDS,
    LLAMA,
    OLMO2,
    largest_difference,
    patch_config,
    refuse,
    run_conversion,
    set_options,
    set_weights,
)
from toy_models import EOS, toy_native_olmo
from transformers import AutoModelForCausalLM, AutoTokenizer

from open_instruct.common.hashing import sha256
from open_instruct.common.json_files import read_json
from open_instruct.common.sidecars import read_sidecar
from open_instruct.olmo_hf import convert_olmo_to_tf as convert
from open_instruct.olmo_hf import shards, verification, weights

SUPPORTED = {
    "tied": {},
    "untied": {"weight_tying": False},
    "gqa": {"n_kv_heads": 2},
    "mqa": {"n_kv_heads": 1},
    "mqa, older option": {"multi_query_attention": True},
    "clip_qkv": {"clip_qkv": 0.5},
    "rope_theta": {"rope_theta": 500_000},
    "embedding not padded": {"embedding_size": None},
    "mlp_ratio": {"mlp_hidden_size": None},
    "grouped blocks": {"block_group_size": 2},
    "low-precision norm": {"layer_norm_type": "low_precision"},
    "llama": LLAMA,
    "llama gqa untied": LLAMA | {"n_kv_heads": 2, "weight_tying": False, "rope_theta": 500_000},
    "olmo2": OLMO2,
    "olmo2 gqa untied": OLMO2 | {"n_kv_heads": 2, "weight_tying": False, "layer_norm_eps": 1e-6},
}


# --- supported models ---


@pytest.mark.parametrize("name", SUPPORTED)
def test_converted_model_gives_the_native_logits(folder, name):
    native = toy_native_olmo(folder / "native", **SUPPORTED[name])
    converted = run_conversion(folder)
    assert largest_difference(native, converted) < 1e-4
    measured = read_sidecar(converted)["verification"]
    assert measured["max_abs_difference"] < 1e-4
    # The logits are far larger than the tolerance, so that the comparison can fail.
    assert measured["max_abs_logit"] > 1000 * measured["tolerance"]


@pytest.mark.parametrize("name", SUPPORTED)
def test_comparison_by_layer_measures_the_same(folder, name):
    toy_native_olmo(folder / "native", **SUPPORTED[name])
    whole = read_sidecar(run_conversion(folder, verify_by="whole"))["verification"]
    layers = read_sidecar(run_conversion(folder, verify_by="layers", overwrite=True))["verification"]
    assert (whole["by_layer"], layers["by_layer"]) == (False, True)
    assert layers["max_abs_difference"] < 1e-4
    assert layers["max_abs_logit"] == pytest.approx(whole["max_abs_logit"], rel=1e-5)
    assert layers["num_tokens"] == whole["num_tokens"]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    heads=st.sampled_from([2, 4, 8]),
    head_dim=st.sampled_from([2, 4, 8]),
    queries_per_key=st.sampled_from([1, 2]),
    num_layers=st.integers(1, 3),
    tied=st.booleans(),
    kind=st.sampled_from(sorted(KINDS)),
)
def test_random_sizes_give_the_native_logits(folder, heads, head_dim, queries_per_key, num_layers, tied, kind):
    sizes = {"d_model": heads * head_dim, "n_heads": heads, "n_kv_heads": heads // queries_per_key}
    native = toy_native_olmo(folder / "native", n_layers=num_layers, weight_tying=tied, **sizes, **KINDS[kind])
    assert largest_difference(native, run_conversion(folder, overwrite=True)) < 1e-4


def test_eos_and_pad_come_from_the_tokenizer(folder):
    assert yaml.safe_load((folder / "native/config.yaml").read_text())["model"]["eos_token_id"] == 0
    converted = run_conversion(folder)
    # Ids 0 to 297 are ordinary tokens.
    for name in ("config.json", "generation_config.json"):
        config = read_json(converted / name)
        assert (config["eos_token_id"], config["pad_token_id"]) == (299, 298)
    assert AutoTokenizer.from_pretrained(converted).decode([299]) == EOS


def test_sidecar_records_the_identity(folder):
    for main in ("main", -1):
        identity = read_sidecar(run_conversion(folder, step=main, overwrite=True))["identity"]
        assert (identity["model_id"], identity["step"]) == ("tiny_main", None)
    identity = read_sidecar(run_conversion(folder, overwrite=True))["identity"]
    assert (identity["model_id"], identity["family"], identity["step"]) == ("tiny_checkpoint-300", "tiny", 300)


def test_bfloat16_shards_are_rounded_weights_and_verified_before_rounding(folder):
    native = toy_native_olmo(folder / "native")
    converted = run_conversion(folder, dtype="bfloat16", max_shard_size="10KB")
    index = read_json(converted / "model.safetensors.index.json")
    assert len(set(index["weight_map"].values())) > 2
    shard = load_file(converted / index["weight_map"]["model.layers.1.mlp.gate_proj.weight"])
    gate = native.state_dict()["transformer.blocks.1.ff_proj.weight"][64:].to(torch.bfloat16)
    assert torch.equal(shard["model.layers.1.mlp.gate_proj.weight"], gate)
    recorded = read_sidecar(converted)["files"]
    assert {name: recorded[name]["sha256"] for name in recorded} == {
        name: sha256(converted / name) for name in recorded
    }
    measured = read_sidecar(converted)["verification"]
    assert measured["max_abs_difference"] < 1e-4 < measured["after_cast"]["max_abs_difference"]
    assert AutoModelForCausalLM.from_pretrained(converted).dtype == torch.bfloat16


def test_dropped_training_options_are_reported(folder, capsys):
    set_options(folder, residual_dropout=0.1)
    assert read_sidecar(run_conversion(folder))["training_only_options"] == {"residual_dropout": 0.1}
    assert "residual_dropout 0.1 has no counterpart" in capsys.readouterr().out


# --- wrong mappings ---


def patch_take(monkeypatch, ending: str, change):
    def wrong(state, piece, dtype):
        tensor = weights.take(state, piece, dtype)
        return change(tensor).contiguous() if piece.source.endswith(ending) and piece.start == 0 else tensor

    monkeypatch.setattr(shards, "take", wrong)
    monkeypatch.setattr(verification, "take", wrong)


def swap(monkeypatch, source: str, order: tuple[int, ...]):
    names = weights.ATTENTION_AND_MLP[source]
    monkeypatch.setitem(weights.ATTENTION_AND_MLP, source, tuple(names[i] for i in order))


WRONG_MAPPINGS = {
    "gate and up swapped": lambda m: swap(m, "ff_proj.weight", (1, 0)),
    "query and key swapped": lambda m: swap(m, "att_proj.weight", (1, 0, 2)),
    "output projection transposed": lambda m: patch_take(m, "attn_out.weight", lambda t: t.T),
    "head transposed": lambda m: patch_take(m, "transformer.ff_out.weight", lambda t: t.T),
    "query heads permuted": lambda m: patch_take(m, "att_proj.weight", lambda t: t.roll(8, dims=0)),
    "vocabulary rows permuted": lambda m: patch_take(m, "wte.weight", lambda t: t.roll(1, dims=0)),
    "rope theta": lambda m: patch_config(m, rope_parameters={"rope_type": "default", "rope_theta": 20_000.0}),
    "clip_qkv forgotten": lambda m: patch_config(m, clip_qkv=None),
}


@pytest.mark.parametrize("verify_by", ["whole", "layers"])
@pytest.mark.parametrize("name", WRONG_MAPPINGS)
def test_wrong_mapping_is_detected_by_the_logits(folder, monkeypatch, name, verify_by):
    # As many embeddings as dimensions: a transposed head has the right shape.
    toy_native_olmo(folder / "native", clip_qkv=1.0, weight_tying=False, d_model=384, embedding_size=384)
    WRONG_MAPPINGS[name](monkeypatch)
    refuse(folder, "the converted model is not the native one: logits differ by", verify_by=verify_by)


def test_missing_layer_is_refused(folder, monkeypatch):
    patch_config(monkeypatch, num_hidden_layers=1)
    refuse(folder, r"disagree about model\.layers\.1\.")


def test_incomplete_weight_table_is_refused(folder, monkeypatch):
    monkeypatch.delitem(weights.ATTENTION_AND_MLP, "attn_out.weight")
    refuse(folder, r"disagree about model\.layers\.0\.self_attn\.o_proj\.weight")


def test_wrong_eos_in_the_config_is_refused(folder, monkeypatch):
    patch_config(monkeypatch, eos_token_id=0)
    refuse(folder, r"names EOS 0, expected 299")


def test_nan_logits_are_refused(folder):
    # Finite weights whose products overflow.
    set_weights(folder, lambda state: state["transformer.wte.weight"].fill_(1e30))
    refuse(folder, "logits differ by nan")


def test_wrongly_written_weights_are_detected(folder, monkeypatch):
    monkeypatch.setattr(shards, "take", lambda state, piece, dtype: weights.take(state, piece, dtype) + 1)
    refuse(folder, "was not written correctly")


def test_no_verify_compares_nothing(folder, monkeypatch):
    monkeypatch.setattr(convert, "verify", lambda *_: pytest.fail("compared"))
    assert read_sidecar(run_conversion(folder, verify=False))["verification"] is None


def test_a_tokenizer_file_gives_the_tokenizer_of_its_folder(folder):
    file = folder / "tokenizer" / "tokenizer.json"
    expected = AutoTokenizer.from_pretrained(file.parent)
    set_options(folder, pad_token_id=expected.pad_token_id)
    written = AutoTokenizer.from_pretrained(run_conversion(folder, tokenizer_name_or_path=str(file)))
    assert (written.eos_token, written.pad_token) == (expected.eos_token, expected.pad_token)
    assert written("The cat sat").input_ids == expected("The cat sat").input_ids
