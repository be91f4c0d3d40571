"""Checkpoints, tokenizers and folders that the conversion refuses; foreign files are never deleted."""

import pickle
import sys

import pytest
import torch
from malicious_pickle import Payload
from toy_conversion import (
    LLAMA,
    OLMO2,
    largest_difference,
    refuse,
    run_conversion,
    set_options,
    set_weights,
)
from toy_models import toy_native_olmo, toy_tokenizer

from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import write_json
from open_instruct.common.sidecars import read_sidecar
from open_instruct.olmo_hf import convert_olmo_to_tf as convert
from open_instruct.olmo_hf import verification

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
    "rms, clipped": (LLAMA | {"clip_qkv": 8.0}, "LlamaForCausalLM .*model: clip_qkv is 8.0, expected None"),
    "rms, q and k norm": (LLAMA | {"attention_layer_norm": True}, "LlamaForCausalLM .*attention_layer_norm is True"),
    "rms, norm biases": (LLAMA | {"bias_for_layer_norm": True}, "LlamaForCausalLM .*bias_for_layer_norm is True"),
    "embedding norm": ({"embedding_layer_norm": True}, "embedding_layer_norm is True"),
    "scaled logits": ({"scale_logits": True}, "scale_logits is True"),
    "parallel blocks": ({"block_type": "parallel"}, "parallel"),
    "unknown option": ({"made_up": 1}, "made_up"),
    "contradictory heads": ({"n_kv_heads": 2, "multi_query_attention": True}, "multi_query_attention"),
    "uneven heads": ({"n_heads": 5}, "d_model 32 is not a multiple of n_heads 5"),
    "odd heads": ({"d_model": 36}, r"config\.yaml: heads of size 9 are odd"),
    "embedding too small": ({"embedding_size": 128}, "embedding_size 128 is less than vocab_size 300"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_option_is_named(folder, name):
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
def test_unfit_weights_are_named(folder, change, message):
    set_weights(folder, change)
    refuse(folder, message)


def test_weights_beyond_the_layers_of_the_config_are_named(folder):
    set_options(folder, n_layers=1)
    refuse(folder, r"unexpected transformer\.blocks\.1\.attn_out\.weight")


def test_float16_overflow_is_refused(folder):
    set_weights(folder, lambda state: state["transformer.blocks.0.ff_out.weight"].mul_(1e6))
    refuse(folder, r"blocks\.0\.ff_out\.weight has values that are not finite in torch\.float16", dtype="float16")


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_malicious_weights_are_not_executed(folder, save):
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
def test_invalid_config_is_refused(folder, text):
    (folder / "native" / "config.yaml").write_text(text)
    refuse(folder, r"config\.yaml:(1:)? ")


def test_unfit_tokenizer_files_are_refused(folder):
    refuse(folder, r"config\.json: the tokenizer cannot be loaded", tokenizer_name_or_path=str(other_json(folder)))
    set_options(folder, pad_token_id=299_999)
    tokenizer = folder / "tokenizer" / "tokenizer.json"
    refuse(folder, r"tokenizer\.json has no token of id 299999", tokenizer_name_or_path=str(tokenizer))


def other_json(folder):
    (folder / "config.json").write_text("{}")
    return folder / "config.json"


def test_unfit_tokenizers_are_refused(folder):
    refuse(
        folder,
        r"no tokenizer at .*nowhere \(no such folder\); set --tok",
        tokenizer_name_or_path=str(folder / "nowhere"),
    )
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
    sidecar = {"identity": {"family": "tiny", "step": 200}, "arguments": {}, "inputs": {}, "files": {}}
    write_json(folder / "native" / "meta.json", sidecar)
    refuse(folder, "is of step 200, not 300; add --step 200")
    refuse(folder, "is of step 200, not main; add --step 200", step=-1)
    assert read_sidecar(run_conversion(folder, step=200))["identity"]["step"] == 200


@pytest.fixture
def named_by_a_step(folder):
    """A checkpoint in a folder whose name is that of step 200, without a sidecar."""
    return (folder / "native").rename(folder / "checkpoint-200")


def test_without_a_sidecar_the_step_is_not_guessed(folder, named_by_a_step):
    refuse(folder, r"has no meta\.json that names its step; add --step", input_dir=named_by_a_step, step=None)
    refuse(folder, "expected --step or --input_dir", input_dir=None, step=None)
    refuse(folder, "nowhere lacks config.yaml and model.pt", input_dir=folder / "nowhere", step=None)
    assert read_sidecar(run_conversion(folder, input_dir=named_by_a_step))["identity"]["step"] == 300


@pytest.mark.parametrize("step", [200, 400, None])
def test_the_step_of_the_sidecar_is_taken_where_the_folder_does_not_name_another(folder, named_by_a_step, step):
    sidecar = {"identity": {"family": "tiny", "step": step}, "arguments": {}, "inputs": {}, "files": {}}
    write_json(named_by_a_step / "meta.json", sidecar)
    if step != 200:
        wanted = "main" if step is None else step
        refuse(folder, f"is of step {wanted}, as .* add --step {wanted}", input_dir=named_by_a_step, step=None)
    given = {200: None, 400: 400, None: "main"}[step]
    converted = run_conversion(folder, input_dir=named_by_a_step, step=given)
    assert read_sidecar(converted)["identity"]["step"] == step


def test_a_folder_of_another_name_has_the_step_of_its_sidecar(folder):
    sidecar = {"identity": {"family": "tiny", "step": 200}, "arguments": {}, "inputs": {}, "files": {}}
    write_json(folder / "native" / "meta.json", sidecar)
    assert read_sidecar(run_conversion(folder, step=None))["identity"]["step"] == 200


def test_unknown_family_and_negative_step_are_refused(folder):
    refuse(folder, r"unknown family tinny \(did you mean tiny\?\)", family="tinny")
    refuse(folder, "step is -300, expected a pre-training step, or `main`", step=-300)


def test_foreign_folders_are_never_deleted(folder):
    (folder / "precious").mkdir()
    (folder / "precious" / "thesis.tex").write_text("...")
    with pytest.raises(UserError, match=r"has thesis\.tex, not written by this project"):
        run_conversion(folder, output_dir=folder / "precious")
    for overlapping in (folder, folder / "native"):
        with pytest.raises(UserError, match="overlap"):
            run_conversion(folder, output_dir=overlapping, overwrite=True)
    assert (folder / "precious" / "thesis.tex").exists()
    assert (folder / "native" / "model.pt").exists()


def test_missing_files_and_too_little_disk_space_are_named(folder, monkeypatch):
    monkeypatch.setattr(convert.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    refuse(folder, r"has 0\.0 GB free, the model takes 0\.0 GB")
    (folder / "native" / "model.pt").unlink()
    refuse(folder, r"lacks model\.pt; expected a checkpoint in OLMo's own format")
    refuse(folder, "max_shard_size|lacks", max_shard_size="many")


def test_refused_conversion_ends_with_exit_code_2(folder, monkeypatch, capsys):
    monkeypatch.setattr(verification, "TOLERANCE", -1.0)
    command = ["--family", "tiny", "--step", "300", "--input_dir", str(folder / "native")]
    command += ["--output_dir", str(folder / "converted"), "--tokenizer_name_or_path", str(folder / "tokenizer")]
    monkeypatch.setattr(sys, "argv", ["convert_olmo_to_tf.py", *command])
    with pytest.raises(SystemExit) as ended:
        run(convert.main, convert.Args)
    assert ended.value.code == 2
    assert "error: the converted model is not the native one" in capsys.readouterr().err
    assert not (folder / "converted").exists()
