"""Every layout of OLMo's own checkpoints converts to the same model; malformed ones are refused."""

import base64
import json
import pickle

import pytest
import torch
from malicious_pickle import Payload
from safetensors.torch import save_file
from toy_conversion import LLAMA, OLMO2, largest_difference, refuse, run_conversion, to_hub
from toy_models import toy_native_olmo

from open_instruct.common.errors import UserError
from open_instruct.common.sidecars import read_sidecar


def to_trainers_safetensors(native):
    from olmo.safetensors_util import state_dict_to_safetensors_file

    state_dict_to_safetensors_file(torch.load(native / "model.pt", weights_only=True), native / "model.safetensors")
    (native / "model.pt").unlink()


def to_plain_safetensors(native):
    save_file(torch.load(native / "model.pt", weights_only=True), native / "model.safetensors")
    (native / "model.pt").unlink()


LAYOUTS = {
    "safetensors of the trainer": to_trainers_safetensors,
    "safetensors": to_plain_safetensors,
    "hub": lambda native: to_hub(native, num_files=1, suffix="safetensors"),
    "hub, sharded": lambda native: to_hub(native, num_files=3, suffix="safetensors"),
    "hub, pickled": lambda native: to_hub(native, num_files=1, suffix="bin"),
    "hub, pickled and sharded": lambda native: to_hub(native, num_files=2, suffix="bin"),
}


@pytest.mark.parametrize(
    "options", [{}, LLAMA, OLMO2 | {"n_kv_heads": 2, "weight_tying": False, "rope_theta": 500_000}], ids=str
)
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_model(folder, name, options):
    native = toy_native_olmo(folder / "native", **options)
    LAYOUTS[name](folder / "native")
    converted = run_conversion(folder)
    assert largest_difference(native, converted) < 1e-4
    assert read_sidecar(converted)["verification"]["max_abs_difference"] < 1e-4


def test_unknown_options_in_config_json_are_refused(folder):
    to_hub(folder / "native", num_files=1, suffix="safetensors")
    config = json.loads((folder / "native" / "config.json").read_text())
    (folder / "native" / "config.json").write_text(json.dumps(config | {"attention_sinks": 4}))
    refuse(folder, "attention_sinks")


def test_model_in_transformers_format_is_refused(folder):
    run_conversion(folder)
    with pytest.raises(UserError, match="has a model of type olmo, not one in OLMo's own format"):
        run_conversion(folder, input_dir=folder / "converted", output_dir=folder / "again")


def test_missing_and_repeated_shards_are_named(folder):
    to_hub(folder / "native", num_files=2, suffix="safetensors")
    parts = sorted((folder / "native").glob("*.safetensors"))
    parts[1].write_bytes(parts[0].read_bytes())
    refuse(folder, "is in another file too")
    parts[1].unlink()
    refuse(folder, "missing transformer")
    parts[0].unlink()
    refuse(folder, r"lacks model\.safetensors")


def test_code_in_a_tensor_name_is_not_executed(folder):
    to_trainers_safetensors(folder / "native")
    pickles = [pickle.dumps(value) for value in (((Payload(folder / "executed"),), False), (("x",), True))]
    for name in (*(base64.urlsafe_b64encode(content).decode() for content in pickles), "!"):
        save_file({name: torch.zeros(1)}, folder / "native" / "model.safetensors")
        refuse(folder, "is none of OLMo's; nothing in it was executed")
    assert not (folder / "executed").exists()


def test_truncated_safetensors_are_refused(folder):
    to_plain_safetensors(folder / "native")
    path = folder / "native" / "model.safetensors"
    whole = path.read_bytes()
    for broken in (whole[:-100], whole[:50], b"", b"<!DOCTYPE html>"):
        path.write_bytes(broken)
        refuse(folder, r"no safetensors file, or is cut short")
