"""Publishing a model on the Hub and training a model of the Hub, with a Hub on this machine."""

from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from loopback_publishing import PublishingHub
from toy_training import largest_difference, output_of, toy_training, weights
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from open_instruct import finetune
from open_instruct.common.errors import UserError
from open_instruct.common.sidecars import read_sidecar
from open_instruct.training.arguments import Args

REPO = "someone/tuned"


@pytest.fixture
def args() -> Args:
    return replace(toy_training(), max_train_steps=2)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with PublishingHub() as hub:
        hub.point_clients_here(monkeypatch, tmp_path / "cache")
        monkeypatch.setenv("HF_TOKEN", hub.TOKEN)
        yield hub


def test_a_published_model_loads_by_its_name(args, hub, capsys):
    finetune.main(replace(args, push_to_hub=REPO))
    folder = output_of(args)
    commit = hub.repositories["model", REPO].commit("main")
    assert f"published {hub.url}/{REPO}/commit/{commit.id}" in capsys.readouterr().out
    assert set(commit.files) == {path.name for path in folder.iterdir()} >= {"README.md", "meta.json", "config.json"}
    assert largest_difference(weights(REPO), weights(folder)) == 0
    assert GenerationConfig.from_pretrained(REPO).eos_token_id == AutoTokenizer.from_pretrained(REPO).eos_token_id
    assert AutoTokenizer.from_pretrained(REPO).chat_template is not None
    # Started again, it neither trains nor creates the repository again.
    finetune.main(replace(args, push_to_hub=REPO))
    assert len(hub.repositories["model", REPO].commits) <= 2


def test_a_model_of_the_hub_is_trained_at_the_requested_revision(args, hub, tmp_path):
    base = Path(args.model_name_or_path)
    hub.add("model", "org/base", {path.name: path for path in base.iterdir()}, ref="step7")
    hub.add("model", "org/base", {"modeling.py": "raise SystemExit", "pytorch_model.bin": b"pickle"}, ref="step7")
    finetune.main(replace(args, output_dir=tmp_path / "local"))
    finetune.main(
        replace(args, model_name_or_path="org/base", model_revision="step7", output_dir=tmp_path / "from the hub")
    )
    assert largest_difference(weights(tmp_path / "local"), weights(tmp_path / "from the hub")) == 0
    # Neither code nor pickles are downloaded.
    assert not hub.requests_of(r"resolve/.*(\.py|\.bin)$")


def test_the_model_card_agrees_with_the_sidecar(args):
    args = replace(args, num_validation_rows=4)
    finetune.main(args)
    folder = output_of(args)
    card, meta = ModelCard.load(folder / "README.md"), read_sidecar(folder)
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
    assert card.text.startswith(f"# {meta['identity']['model_id']}\n")
    rows = dict(
        line.strip("| ").split(" | ") for line in card.text.splitlines() if line.startswith("| ") and line != "| | |"
    )
    assert rows["Family, pre-training step"] == f"tiny, {meta['identity']['step']}"
    assert rows["Train set"] == f"socialiqa, {meta['rows']} rows, {meta['examples_cut']} cut"
    assert rows["Optimiser steps"] == "2 of 4 examples"
    assert rows["Train loss"].endswith(f"{meta['final']['loss']:.4f} nats per target token")
    assert f"{meta['final_validation']['validation_loss']:.4f}" in rows["Validation loss"]


def test_one_of_many_models_in_a_repository_of_the_hub_is_trained(args, hub, tmp_path):
    base = Path(args.model_name_or_path)
    hub.add("model", "org/many", {f"ckpt{n}/{path.name}": path for n in (7, 8) for path in base.iterdir()})
    finetune.main(replace(args, output_dir=tmp_path / "local"))
    finetune.main(replace(args, model_name_or_path="org/many/ckpt7", output_dir=tmp_path / "from the hub"))
    assert largest_difference(weights(tmp_path / "local"), weights(tmp_path / "from the hub")) == 0
    assert not hub.requests_of("resolve/.*ckpt8")
    with pytest.raises(UserError, match="org/many has no folder ckpt9 with a model"):
        finetune.main(replace(args, model_name_or_path="org/many/ckpt9"))


@pytest.mark.parametrize(
    ("repository", "token", "message"),
    [
        (REPO, None, "needs a login; `hf auth login`, or set HF_TOKEN"),
        ("not a name!", "hf_x", "--push_to_hub not a name!: "),
    ],
)
def test_publishing_without_login_or_valid_name_is_refused_before_training(
    args, hub, monkeypatch, repository, token, message
):
    monkeypatch.setattr("open_instruct.training.publishing.get_token", lambda: token)
    with pytest.raises(UserError, match=message):
        finetune.main(replace(args, push_to_hub=repository))
    assert not output_of(args).exists()


def test_a_model_that_the_hub_refused_is_published_by_the_next_start(args, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match=f"the Hub refused {REPO}: .* start again to publish it"):
        finetune.main(replace(args, push_to_hub=REPO))
    assert AutoModelForCausalLM.from_pretrained(output_of(args)) is not None
    monkeypatch.setenv("HF_TOKEN", hub.TOKEN)
    finetune.main(replace(args, push_to_hub=REPO))
    assert ("model", REPO) in hub.repositories
