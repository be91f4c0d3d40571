"""Distances between toy models whose weights were changed by known amounts."""

import json

import numpy as np
import pytest
import torch
from changed_models import changed_copy
from safetensors.torch import load_file, save_file
from toy_models import toy_adapter

from eval.weight_distance import Args, changes, kind_of, layer_of, main
from open_instruct import merge_lora
from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.sidecars import sidecar_path


def test_distance_of_each_layer_equals_its_known_change(home):
    factors = {"model.layers.0.": 1.1, "lm_head.": 0.5}

    def change(name, tensor):
        return tensor * next((f for prefix, f in factors.items() if name.startswith(prefix)), 1.0)

    tuned = changed_copy(home / "model", home / "tuned", change)
    main(Args((tuned,)))
    layers = json.loads(paths.weight_distance_file("tuned").read_text())["layers"]
    assert [row["layer"] for row in layers] == [
        *("model.embed_tokens", "model.layers.0", "model.layers.1", "lm_head", "all")
    ]
    relative = {row["layer"]: row["distance"] / row["base_norm"] for row in layers}
    expected = {"model.embed_tokens": 0, "model.layers.0": 0.1, "model.layers.1": 0, "lm_head": 0.5}
    assert {name: relative[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    # All layers together, from the concatenated tensors.
    before = load_file(home / "model" / "model.safetensors")
    difference = np.concatenate([(change(n, t) - t).double().numpy().ravel() for n, t in before.items()])
    assert layers[-1]["distance"] == pytest.approx(np.linalg.norm(difference), rel=1e-5)
    assert layers[-1]["num_weights"] == sum(t.numel() for t in before.values())


def test_layers_are_sorted_by_number(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_file({f"h.{i}.w": torch.ones(2) for i in range(11)}, tmp_path / name / "model.safetensors")
    found = [row["layer"] for row in changes(tmp_path / "a", tmp_path / "b")[0]]
    assert found == [*(f"h.{i}" for i in range(11)), "all"]


def test_changed_base_model_is_refused(home):
    tuned = changed_copy(home / "model", home / "tuned", lambda name, tensor: tensor)
    with (home / "model" / "config.json").open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match=r"has changed since .*tuned was made from it"):
        main(Args((tuned,)))


def test_model_without_a_base_model_is_refused(home):
    with pytest.raises(UserError, match="names no existing base model; give it with --base_model_name_or_path"):
        main(Args((home / "model",)))


def test_models_with_different_tensors_are_refused(home):
    tuned = changed_copy(home / "model", home / "tuned", lambda name, tensor: tensor)
    tensors = load_file(tuned / "model.safetensors")
    tensors["extra"] = torch.zeros(1)
    save_file(tensors, tuned / "model.safetensors")
    with pytest.raises(UserError, match="have different tensors: only one of them has extra"):
        changes(tuned, home / "model")
    assert not sidecar_path(paths.weight_distance_file("tuned")).exists()


def test_ranks_of_a_known_change_are_written_beside_the_distances(home):
    tuned = changed_copy(home / "model", home / "tuned", lambda name, t: t + ("q_proj" in name) * rank_one(t))
    main(Args((tuned,)))
    matrices = json.loads(paths.weight_distance_file("tuned").read_text())["matrices"]
    shapes = {name: list(t.shape) for name, t in load_file(home / "model" / "model.safetensors").items()}
    assert {row["tensor"]: row["shape"] for row in matrices} == shapes
    moved = {(row["layer"], row["kind"]): row for row in matrices if row["rank"]}
    assert list(moved) == [(f"model.layers.{i}", "self_attn.q_proj") for i in range(2)]
    assert all((row["rank"], round(row["effective_rank"], 3)) == (1, 1) for row in moved.values())
    assert all(row["effective_rank"] is row["stable_rank"] is None for row in matrices if not row["rank"])


def rank_one(tensor):
    return torch.outer(torch.arange(len(tensor)), torch.ones(tensor.shape[1])) / 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_update_of_a_merged_adapter_has_at_most_its_rank(home, dtype):
    toy_adapter(home / "model", home / "adapter")  # of rank 2, on every linear layer but the head
    merge_lora.main(merge_lora.Args(str(home / "adapter"), home / "merged"))
    rounded = {name: t.to(dtype) for name, t in load_file(home / "merged" / "model.safetensors").items()}
    save_file(rounded, home / "merged" / "model.safetensors", {"format": "pt"})
    _, matrices = changes(home / "merged", home / "model")
    assert {row["rank"] for row in matrices if row["layer"].startswith("model.layers.")} == {2}
    assert {row["rank"] for row in matrices if not row["layer"].startswith("model.layers.")} == {0}
    assert all(1 <= row["stable_rank"] <= row["effective_rank"] <= 2 for row in matrices if row["rank"])


def test_an_adapter_is_refused_with_how_to_merge_it(home):
    toy_adapter(home / "model", home / "adapter")
    with pytest.raises(UserError, match=r"has only an adapter; merge it .* open_instruct/merge_lora\.py"):
        main(Args((home / "adapter",), home / "model"))


@pytest.mark.parametrize(
    ("name", "layer", "kind"),
    [
        ("model.layers.3.self_attn.q_proj.weight", "model.layers.3", "self_attn.q_proj"),
        ("model.layers.0.mlp.experts.12.w1.weight", "model.layers.0", "mlp.experts.w1"),
        ("transformer.h.10.attn.c_attn.weight", "transformer.h.10", "attn.c_attn"),
        ("model.embed_tokens.weight", "model.embed_tokens", "model.embed_tokens"),
        ("lm_head.weight", "lm_head", "lm_head"),
    ],
)
def test_layer_and_kind_of_a_tensor_come_from_its_name(name, layer, kind):
    assert (layer_of(name), kind_of(name)) == (layer, kind)
