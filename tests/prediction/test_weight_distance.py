"""Distances between toy models whose weights were changed by known amounts."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from eval.weight_distance import Args, distances, main
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.errors import UserError
from open_instruct.common.sidecars import sidecar_path


def changed_copy(base, folder, change):
    """A copy of the model in `base` with `change(name, tensor)` for every tensor, as if fine-tuned from it."""
    with Artifact(folder, {}, {"model": base}, {"model_id": folder.name}).making_folder() as (made, facts):
        shutil.copytree(base, made, dirs_exist_ok=True, ignore=shutil.ignore_patterns("meta.json"))
        tensors = load_file(base / "model.safetensors")
        save_file({n: change(n, t) for n, t in tensors.items()}, made / "model.safetensors", {"format": "pt"})
        facts["input_paths"] = {"model": str(base)}
    return folder


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
    found = [row["layer"] for row in distances(tmp_path / "a", tmp_path / "b")]
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
        distances(tuned, home / "model")
    assert not sidecar_path(paths.weight_distance_file("tuned")).exists()
