"""Conversion from OLMo's own format: right for every supported model, refused for everything else."""

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from toy_models import EOS, toy_native_olmo, toy_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from open_instruct.cli import run
from open_instruct.olmo_hf import convert_olmo_to_tf as convert
from open_instruct.olmo_hf import verification, weights
from open_instruct.records import UserError, read_json, read_sidecar, write_json

OLMO2 = {
    "norm_after": True,
    "attention_layer_norm": True,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "attention_layer_norm_with_affine": True,
}
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
    "olmo2": OLMO2,
    "olmo2 gqa untied": OLMO2 | {"n_kv_heads": 2, "weight_tying": False, "layer_norm_eps": 1e-6},
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Toy matrices lose far more time to threads waiting for each other than they gain."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture
def folder(tmp_path):
    """A folder with a native checkpoint in native/ and its tokenizer in tokenizer/."""
    toy_native_olmo(tmp_path / "native")
    toy_tokenizer(tmp_path / "tokenizer")
    return tmp_path


def run_conversion(folder: Path, **options) -> Path:
    arguments: dict[str, Any] = {
        "family": "tiny",
        "step": 300,
        "input_dir": folder / "native",
        "output_dir": folder / "converted",
        "tokenizer_name_or_path": str(folder / "tokenizer"),
    }
    convert.main(convert.Args(**(arguments | options)))
    return folder / "converted"


def refuse(folder: Path, match: str, **options) -> None:
    """Assert that the conversion is refused for the right reason, and leaves nothing behind."""
    with pytest.raises(UserError, match=match):
        run_conversion(folder, **options)
    assert not (folder / "converted").exists()


def set_options(folder: Path, **options) -> None:
    path = folder / "native" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["model"].update(options)
    path.write_text(yaml.safe_dump(config))


def set_weights(folder: Path, change) -> None:
    state = torch.load(folder / "native" / "model.pt", weights_only=True)
    change(state)
    torch.save(state, folder / "native" / "model.pt")


def largest_difference(native, converted: Path) -> float:
    ids = torch.randint(300, (1, 100), generator=torch.Generator().manual_seed(7))
    model = AutoModelForCausalLM.from_pretrained(converted).eval()
    with torch.no_grad():
        return (native(ids).logits - model(ids).logits).abs().max().item()


# --- what is supported ---


@pytest.mark.parametrize("name", SUPPORTED)
def test_converted_model_gives_the_native_logits(folder, name):
    native = toy_native_olmo(folder / "native", **SUPPORTED[name])
    converted = run_conversion(folder)
    assert largest_difference(native, converted) < 1e-4
    measured = read_sidecar(converted)["verification"]
    assert measured["max_abs_difference"] < 1e-4
    # The toy's logits are far larger than what is allowed: the comparison can fail.
    assert measured["max_abs_logit"] > 1000 * measured["tolerance"]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    heads=st.sampled_from([2, 4, 8]),
    head_dim=st.sampled_from([2, 4, 8]),
    queries_per_key=st.sampled_from([1, 2]),
    num_layers=st.integers(1, 3),
    tied=st.booleans(),
    is_olmo2=st.booleans(),
)
def test_any_sizes_convert(folder, heads, head_dim, queries_per_key, num_layers, tied, is_olmo2):
    sizes = {"d_model": heads * head_dim, "n_heads": heads, "n_kv_heads": heads // queries_per_key}
    kind = OLMO2 if is_olmo2 else {}
    native = toy_native_olmo(folder / "native", n_layers=num_layers, weight_tying=tied, **sizes, **kind)
    assert largest_difference(native, run_conversion(folder, overwrite=True)) < 1e-4


def test_eos_and_pad_come_from_the_tokenizer(folder):
    assert yaml.safe_load((folder / "native/config.yaml").read_text())["model"]["eos_token_id"] == 0
    converted = run_conversion(folder)
    # 298 ordinary tokens, then <|padding|>, then <|endoftext|>.
    for name in ("config.json", "generation_config.json"):
        config = read_json(converted / name)
        assert (config["eos_token_id"], config["pad_token_id"]) == (299, 298)
    assert AutoTokenizer.from_pretrained(converted).decode([299]) == EOS


def test_sidecar_holds_the_identity(folder):
    assert read_sidecar(run_conversion(folder, step=-1))["identity"]["model_id"] == "tiny_main"
    identity = read_sidecar(run_conversion(folder, overwrite=True))["identity"]
    assert (identity["model_id"], identity["family"], identity["step"]) == ("tiny_checkpoint-300", "tiny", 300)


def test_bfloat16_in_shards_holds_the_rounded_weights_and_is_verified_before_rounding(folder):
    native = toy_native_olmo(folder / "native")
    converted = run_conversion(folder, dtype="bfloat16", max_shard_size="10KB")
    index = read_json(converted / "model.safetensors.index.json")
    assert len(set(index["weight_map"].values())) > 2
    shard = load_file(converted / index["weight_map"]["model.layers.1.mlp.gate_proj.weight"])
    gate = native.state_dict()["transformer.blocks.1.ff_proj.weight"][64:].to(torch.bfloat16)
    assert torch.equal(shard["model.layers.1.mlp.gate_proj.weight"], gate)
    measured = read_sidecar(converted)["verification"]
    assert measured["max_abs_difference"] < 1e-4 < measured["after_cast"]["max_abs_difference"]
    assert AutoModelForCausalLM.from_pretrained(converted).dtype == torch.bfloat16


def test_options_of_training_only_are_reported(folder, capsys):
    set_options(folder, residual_dropout=0.1)
    assert read_sidecar(run_conversion(folder))["training_only_options"] == {"residual_dropout": 0.1}
    assert "residual_dropout 0.1 has no counterpart" in capsys.readouterr().out


# --- a wrong mapping is noticed ---


def patch_config(monkeypatch, **changes):
    right = convert.target_config

    def wrong(*args):
        config = right(*args)
        for name, value in changes.items():
            setattr(config, name, value)
        return config

    monkeypatch.setattr(convert, "target_config", wrong)


def patch_take(monkeypatch, ending: str, change):
    def wrong(state, piece, dtype):
        tensor = weights.take(state, piece, dtype)
        return change(tensor).contiguous() if piece.source.endswith(ending) and piece.start == 0 else tensor

    monkeypatch.setattr(convert, "take", wrong)
    monkeypatch.setattr(verification, "take", wrong)


def swap(monkeypatch, source: str, order: tuple[int, ...]):
    names = weights.ATTENTION_AND_MLP[source]
    monkeypatch.setitem(weights.ATTENTION_AND_MLP, source, tuple(names[i] for i in order))


WRONG_MAPPINGS = {
    "gate and up swapped": lambda m: swap(m, "ff_proj.weight", (1, 0)),
    "query and key swapped": lambda m: swap(m, "att_proj.weight", (1, 0, 2)),
    "output projection transposed": lambda m: patch_take(m, "attn_out.weight", lambda t: t.T),
    "query heads permuted": lambda m: patch_take(m, "att_proj.weight", lambda t: t.roll(8, dims=0)),
    "vocabulary rows permuted": lambda m: patch_take(m, "wte.weight", lambda t: t.roll(1, dims=0)),
    "rope theta": lambda m: patch_config(m, rope_parameters={"rope_type": "default", "rope_theta": 20_000.0}),
    "clip_qkv forgotten": lambda m: patch_config(m, clip_qkv=None),
}


@pytest.mark.parametrize("name", WRONG_MAPPINGS)
def test_wrong_mapping_is_refused_by_the_logits(folder, monkeypatch, name):
    toy_native_olmo(folder / "native", clip_qkv=1.0)
    WRONG_MAPPINGS[name](monkeypatch)
    refuse(folder, "the converted model is not the native one: logits differ by")


def test_layer_too_few_is_refused(folder, monkeypatch):
    patch_config(monkeypatch, num_hidden_layers=1)
    refuse(folder, r"disagree about model\.layers\.1\.")


def test_incomplete_table_is_refused(folder, monkeypatch):
    monkeypatch.delitem(weights.ATTENTION_AND_MLP, "attn_out.weight")
    refuse(folder, r"disagree about model\.layers\.0\.self_attn\.o_proj\.weight")


def test_wrong_eos_in_the_config_is_refused(folder, monkeypatch):
    patch_config(monkeypatch, eos_token_id=0)
    refuse(folder, r"names EOS 0, expected 299")


def test_logits_that_are_not_numbers_are_refused(folder):
    # Finite weights of which products overflow.
    set_weights(folder, lambda state: state["transformer.wte.weight"].fill_(1e30))
    refuse(folder, "logits differ by nan")


def test_weights_written_wrongly_are_noticed(folder, monkeypatch):
    monkeypatch.setattr(convert, "take", lambda state, piece, dtype: weights.take(state, piece, dtype) + 1)
    refuse(folder, "was not written as it should be")


def test_without_verification_nothing_is_compared(folder, monkeypatch):
    monkeypatch.setattr(convert, "verify", lambda *_: pytest.fail("compared"))
    assert read_sidecar(run_conversion(folder, verify=False))["verification"] is None


# --- what is not supported ---

UNSUPPORTED = {
    "alibi": ({"alibi": True, "rope": False}, "alibi is True, expected False"),
    "learned positions": ({"rope": False}, "rope is False, expected True"),
    "biases": ({"include_bias": True}, "include_bias is True"),
    "norm biases": ({"bias_for_layer_norm": True}, "bias_for_layer_norm is True"),
    "llama blocks": ({"block_type": "llama"}, "block_type is llama, expected sequential"),
    "gelu": ({"activation_type": "gelu"}, "activation_type is gelu, expected swiglu"),
    "norm weights": ({"layer_norm_with_affine": True}, "layer_norm_with_affine is True, expected False"),
    "rms before": ({"layer_norm_type": "rms"}, "layer_norm_type is rms, expected default or low_precision"),
    "q and k norm before": ({"attention_layer_norm": True}, "attention_layer_norm is True"),
    "norm epsilon": ({"layer_norm_eps": 1e-6}, "layer_norm_eps is 1e-06"),
    "norm after, not rms": (OLMO2 | {"layer_norm_type": "default"}, "Olmo2ForCausalLM .*layer_norm_type is default"),
    "norm after, clipped": (OLMO2 | {"clip_qkv": 8.0}, "clip_qkv is 8.0, expected None"),
    "embedding norm": ({"embedding_layer_norm": True}, "embedding_layer_norm is True"),
    "scaled logits": ({"scale_logits": True}, "scale_logits is True"),
    "parallel blocks": ({"block_type": "parallel"}, "parallel"),
    "unknown option": ({"made_up": 1}, "made_up"),
    "contradictory heads": ({"n_kv_heads": 2, "multi_query_attention": True}, "multi_query_attention"),
    "uneven heads": ({"n_heads": 5}, "d_model 32 is no multiple of n_heads 5"),
    "embedding too small": ({"embedding_size": 128}, "embedding_size 128 is less than vocab_size 300"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_option_without_counterpart_is_refused_by_name(folder, name):
    options, message = UNSUPPORTED[name]
    set_options(folder, **options)
    refuse(folder, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.update(extra=torch.zeros(1)), "unexpected extra"),
        (lambda state: state.pop("transformer.blocks.1.ff_out.weight"), r"missing transformer\.blocks\.1\.ff_out\.w"),
        (
            lambda state: state["transformer.wte.weight"].resize_(32, 384),
            r"wte\.weight has shape \(32, 384\), expected",
        ),
        (
            lambda state: state["transformer.wte.weight"].fill_(float("nan")),
            r"transformer\.wte\.weight has values that",
        ),
    ],
    ids=["unexpected", "missing", "shape", "not finite"],
)
def test_weights_that_do_not_fit_are_named(folder, change, message):
    set_weights(folder, change)
    refuse(folder, message)


def test_weights_beyond_the_layers_of_the_config_are_named(folder):
    set_options(folder, n_layers=1)
    refuse(folder, r"unexpected transformer\.blocks\.1\.attn_out\.weight")


def test_float16_overflow_is_refused(folder):
    set_weights(folder, lambda state: state["transformer.blocks.0.ff_out.weight"].mul_(1e6))
    refuse(folder, r"blocks\.0\.ff_out\.weight has values that are not finite in torch\.float16", dtype="float16")


class Payload:
    """Unpickled carelessly, it makes the folder `path`."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_malicious_weights_execute_nothing(folder, save):
    save({"transformer.wte.weight": Payload(folder / "executed")}, folder / "native" / "model.pt")
    refuse(folder, "nothing in it was executed")
    assert not (folder / "executed").exists()


def test_truncated_weights_and_web_pages_are_refused(folder):
    weights_file = folder / "native" / "model.pt"
    whole = weights_file.read_bytes()
    for broken in (whole[:-100], whole[:2000], b"", b"<!DOCTYPE html><html><body>404</body></html>"):
        weights_file.write_bytes(broken)
        refuse(folder, r"model\.pt \([\d,]+ bytes\) is no state dict of tensors, or is cut short")
    torch.save([torch.zeros(1)], weights_file)
    refuse(folder, "expected a dict of tensors, found list")


@pytest.mark.parametrize("text", ["<html>", "a: [", "model: 3", "other: {}"])
def test_config_that_is_none_is_refused(folder, text):
    (folder / "native" / "config.yaml").write_text(text)
    refuse(folder, r"config\.yaml: ")


def test_unfit_tokenizers_are_refused(folder):
    refuse(folder, "no tokenizer at .*set --tokenizer_name_or_path", tokenizer_name_or_path=str(folder / "nowhere"))
    tokenizer = toy_tokenizer(folder / "tokenizer", vocab_size=301)
    refuse(folder, "has 301 tokens, the checkpoint 300")
    tokenizer = toy_tokenizer(folder / "tokenizer")
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder / "tokenizer")
    refuse(folder, "names no pad token")
    tokenizer.eos_token = "a"
    tokenizer.save_pretrained(folder / "tokenizer")
    refuse(folder, r"is 'a', expected '<\|endoftext\|>'")


# --- artifacts ---


def test_second_run_is_skipped_and_other_arguments_are_refused(folder, capsys):
    converted = run_conversion(folder)
    first = (converted / "meta.json").stat().st_mtime_ns
    run_conversion(folder)
    assert (converted / "meta.json").stat().st_mtime_ns == first
    assert "is done; skipped" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"dtype was 'float32', now 'bfloat16'; add --overwrite"):
        run_conversion(folder, dtype="bfloat16")
    run_conversion(folder, dtype="bfloat16", overwrite=True)
    assert read_sidecar(converted)["arguments"]["dtype"] == "bfloat16"


def test_changed_checkpoint_is_converted_again(folder):
    run_conversion(folder)
    native = toy_native_olmo(folder / "native", seed=1)
    assert largest_difference(native, run_conversion(folder)) < 1e-4


def test_step_must_agree_with_the_checkpoint(folder):
    write_json(folder / "native" / "meta.json", {"identity": {"family": "tiny", "step": 200}, "files": {}})
    refuse(folder, "is of step 200, not 300; add --step 200")
    refuse(folder, "is of step 200, not -1; add --step 200", step=-1)
    assert read_sidecar(run_conversion(folder, step=200))["identity"]["step"] == 200


def test_folders_of_others_are_never_deleted(folder):
    (folder / "precious").mkdir()
    (folder / "precious" / "thesis.tex").write_text("...")
    with pytest.raises(UserError, match=r"holds thesis\.tex, which no conversion wrote"):
        run_conversion(folder, output_dir=folder / "precious")
    for overlapping in (folder, folder / "native", folder / "native" / "inside"):
        with pytest.raises(UserError, match="overlap"):
            run_conversion(folder, output_dir=overlapping, overwrite=True)
    assert (folder / "precious" / "thesis.tex").exists()
    assert (folder / "native" / "model.pt").exists()


def test_missing_files_and_disk_space_are_named(folder, monkeypatch):
    monkeypatch.setattr(convert.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    refuse(folder, r"has 0\.0 GB free, the model takes 0\.0 GB")
    (folder / "native" / "model.pt").unlink()
    refuse(folder, r"lacks model\.pt; expected a checkpoint in OLMo's own format")
    refuse(folder, "max_shard_size|lacks", max_shard_size="many")


def test_command_line_ends_with_exit_code_2(folder, monkeypatch, capsys):
    monkeypatch.setattr(verification, "TOLERANCE", -1.0)
    command = ["--family", "tiny", "--step", "300", "--input_dir", str(folder / "native")]
    command += ["--output_dir", str(folder / "converted"), "--tokenizer_name_or_path", str(folder / "tokenizer")]
    monkeypatch.setattr(sys, "argv", ["convert_olmo_to_tf.py", *command])
    with pytest.raises(SystemExit) as ended:
        run(convert.main, convert.Args)
    assert ended.value.code == 2
    assert "error: the converted model is not the native one" in capsys.readouterr().err
    assert not (folder / "converted").exists()
