"""Arguments of fine-tuning that are not given: the launcher's precision, the registered recipe, a model's revision."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_training import toy_training
from transformers import get_scheduler

from open_instruct import finetune
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.errors import UserError
from open_instruct.training.arguments import resolve


@pytest.fixture
def args():
    return toy_training()


@pytest.mark.parametrize("given", [None, "no"])
def test_the_precision_of_the_launcher_is_used_unless_an_option_says_otherwise(args, given, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # as `accelerate launch --mixed_precision bf16` does
    (artifact,) = finetune.artifacts(replace(args, mixed_precision=given))
    assert artifact.arguments["mixed_precision"] == (given or "bf16")
    assert ("_fp32" in artifact.path.name) == (given == "no")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MIXED_PRECISION", "fp8", "of accelerate launch is fp8; expected no, bf16 or fp16"),
        ("GRADIENT_ACCUMULATION_STEPS", "4", "of accelerate launch is 4; give it to finetune.py"),
        ("GRADIENT_CLIPPING", "0.5", "of accelerate launch is 0.5; add --max_grad_norm 0.5"),
    ],
)
def test_what_the_launcher_says_is_not_overridden(args, name, value, message, monkeypatch):
    monkeypatch.setenv(f"ACCELERATE_{name}", value)
    with pytest.raises(UserError, match=message):
        resolve(args, num_processes=1)
    monkeypatch.setenv(f"ACCELERATE_{name}", "1" if name != "MIXED_PRECISION" else "fp16")
    resolve(args, num_processes=1)


@pytest.mark.parametrize(("train_set", "lr"), [("xsum", 2e-7), ("socialiqa", 2e-6)])
def test_the_recipe_of_a_registered_train_set_is_used_unless_told_otherwise(args, train_set, lr):
    train = Artifact(paths.train_file(train_set), arguments={}, identity={"train_set": train_set})
    text = args.train_file.read_text()
    with train.making():
        train.path.write_text(text)
    args = replace(args, train_file=train.path, learning_rate=None, num_train_epochs=None)
    found = finetune.with_registered_recipe(args)
    assert (found.learning_rate, found.num_train_epochs) == (lr, 3)
    assert finetune.with_registered_recipe(replace(args, learning_rate=1.0)).learning_rate == 1
    assert finetune.with_registered_recipe(replace(args, num_train_epochs=7)).num_train_epochs == 7
    (artifact,) = finetune.artifacts(args)
    assert artifact.arguments["learning_rate"] == artifact.identity["lr"] == lr


def test_a_file_without_a_registered_recipe_needs_a_learning_rate(args, tmp_path):
    own = tmp_path / "own.jsonl"
    shutil.copy(args.train_file, own)
    args = replace(args, train_file=own, num_train_epochs=None)
    assert finetune.with_registered_recipe(args).num_train_epochs == 3
    with pytest.raises(UserError, match="has no registered recipe; give --learning_rate"):
        finetune.main(replace(args, learning_rate=None))


def test_the_tokenizer_has_a_revision_of_its_own(args, monkeypatch):
    asked = []

    def model_folder(name, revision=None, **_):
        asked.append((name, revision))
        return Path(args.model_name_or_path)

    monkeypatch.setattr(finetune, "model_folder", model_folder)
    hub = replace(args, model_name_or_path="org/base", model_revision="step7")
    finetune.input_paths(hub)
    finetune.input_paths(replace(hub, tokenizer_name_or_path="org/tokenizer"))
    finetune.input_paths(replace(hub, tokenizer_revision="fixed"))
    base = ("org/base", "step7")
    assert asked == [base, base, ("org/tokenizer", "step7"), base, ("org/base", "fixed")]


def test_cosine_with_restarts_is_cosine_where_there_is_one_cycle():
    """The original's scheduler had one cycle, so that original_options.yaml may say `cosine`."""
    rates = []
    for name in ("cosine_with_restarts", "cosine"):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = get_scheduler(name, optimizer, num_warmup_steps=3, num_training_steps=20)
        rates.append([])
        for _ in range(20):
            rates[-1].append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
    assert rates[0] == pytest.approx(rates[1], abs=1e-9)
