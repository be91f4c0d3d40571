"""Models like those of DataDecide (allenai/DataDecide-{data}-{size}): their sizes and their layout, random weights."""

import pytest
from architecture_sweep import outcomes_of_model
from toy_conversion import LLAMA, largest_difference, patch_config, refuse, run_conversion, to_hub
from toy_models import toy_native_olmo
from transformers import AutoModelForCausalLM

from open_instruct.common.sidecars import read_sidecar
from open_instruct.olmo_hf import weights

LADDER = LLAMA | {
    "n_heads": 8,
    "mlp_hidden_size": None,
    "mlp_ratio": 8,
    "weight_tying": False,
    "max_sequence_length": 2048,
    "vocab_size": 50_280,
    "embedding_size": 50_304,
}
"""Options of the small sizes.  Source: scripts/ladder.py of github.com/allenai/OLMo."""
SIZES = {
    "4M": (64, 8, 3_744_832),
    "6M": (96, 8, 6_010_464),
    "8M": (128, 8, 8_538_240),
    "10M": (144, 8, 9_900_432),
    "14M": (192, 8, 14_380_224),
    "16M": (208, 8, 16_004_560),
    "20M": (192, 16, 19_101_888),
}
"""Width, layers, and parameters without the input embedding.

Source of the last: scaling_laws/utils/constants/constants_models.py of github.com/allenai/DataDecide.
"""


@pytest.mark.parametrize("size", SIZES)
def test_each_small_size_converts_to_the_same_model(folder, size):
    width, num_layers, num_parameters = SIZES[size]
    native = toy_native_olmo(folder / "native", d_model=width, n_layers=num_layers, **LADDER)
    to_hub(folder / "native", num_files=1, suffix="bin")
    converted = run_conversion(folder)
    measured = read_sidecar(converted)["verification"]
    assert measured["max_abs_difference"] <= measured["tolerance"]
    assert largest_difference(native, converted) <= measured["tolerance"]
    # The logits are far larger than the tolerance, so that the comparison can fail.
    assert measured["max_abs_logit"] > 1000 * measured["tolerance"]
    model = AutoModelForCausalLM.from_pretrained(converted)
    assert (model.config.model_type, model.config.rms_norm_eps) == ("llama", 1e-6)
    assert (model.config.hidden_size, model.config.intermediate_size) == (width, 4 * width)
    assert model.num_parameters() == num_parameters + LADDER["embedding_size"] * width


@pytest.mark.parametrize("verify_by", ["whole", "layers"])
def test_swapped_norms_are_detected(folder, monkeypatch, verify_by):
    toy_native_olmo(folder / "native", **LLAMA)
    names = dict(weights.LLAMA.layer)
    for here, there in (("attn_norm.weight", "ff_norm.weight"), ("ff_norm.weight", "attn_norm.weight")):
        monkeypatch.setitem(weights.LLAMA.layer, here, names[there])
    refuse(folder, "the converted model is not the native one: logits differ by", verify_by=verify_by)


@pytest.mark.parametrize("verify_by", ["whole", "layers"])
def test_another_epsilon_is_detected(folder, monkeypatch, verify_by):
    toy_native_olmo(folder / "native", init_std=0.02, **LLAMA)
    patch_config(monkeypatch, rms_norm_eps=1e-5)
    refuse(folder, "the converted model is not the native one: logits differ by", verify_by=verify_by)


@pytest.mark.parametrize("head_size", [8, 12, 18, 26])
def test_small_heads_are_trained_and_evaluated_as_fast_as_others(folder, head_size):
    toy_native_olmo(folder / "native", n_heads=4, d_model=4 * head_size, embedding_size=None, **LLAMA)
    run_conversion(folder, output_dir=folder / "model")
    found = outcomes_of_model(folder)
    assert {outcome.kind for outcome in found.values()} == {"right"}
    ways = [found[check].text.split(",")[0] for check in ("labels", "generation", "packed")]
    assert ways == ["prefix tree", "own key-value cache", "packed"]
