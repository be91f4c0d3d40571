"""A run whose loss, gradients or weights are not finite stops, and leaves nothing that has them."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from toy_training import output_of, toy_training

from open_instruct import finetune, pretrain_tiny
from open_instruct.common.errors import UserError
from open_instruct.training import loop
from open_instruct.training.state import Progress, state_folder
from open_instruct.training.training_log import StepResult, TrainingLog


@pytest.fixture
def args():
    return replace(toy_training(), total_batch_size=2, checkpointing_steps="1")


def saved_weights(args):
    """Of every state and model that the run left."""
    output = output_of(args)
    files = [*state_folder(output).rglob("*.safetensors"), *output.parent.glob(f"{output.name}/*.safetensors")]
    return [tensor for file in files for tensor in load_file(file).values()]


def test_a_loss_that_is_nan_stops_training_and_leaves_finite_states_only(args):
    args = replace(args, learning_rate=1e6)
    with pytest.raises(
        UserError, match=r"^the loss is nan at step \d+: training diverged after the last finite loss, "
    ):
        finetune.main(args)
    assert not output_of(args).exists()
    assert all(tensor.isfinite().all() for tensor in saved_weights(args))


@pytest.mark.parametrize("logging_steps", [1, 100])
def test_a_weight_that_is_not_finite_is_neither_saved_nor_published(args, logging_steps, monkeypatch):
    """At the last step no later loss would show it; with a rare log nothing else reads the losses."""
    step, clip = [0], loop.clip_gradients

    def last_is_infinite(run):
        step[0] += 1
        if step[0] == 6 * 2:
            next(iter(run.module.parameters())).data[0, 0] = math.inf
        return clip(run)

    monkeypatch.setattr(loop, "clip_gradients", last_is_infinite)
    args = replace(args, logging_steps=logging_steps, warmup_ratio=0.0)
    with pytest.raises(UserError, match=r"^a weight is not finite at step 12: training diverged .*; lower --learning"):
        finetune.main(args)
    assert not output_of(args).exists()
    assert len(saved_weights(args)) > 0
    assert all(tensor.isfinite().all() for tensor in saved_weights(args))


def test_a_validation_loss_that_is_nan_stops_training(args, monkeypatch):
    monkeypatch.setattr(loop, "validation_loss", lambda *_: math.nan)
    with pytest.raises(UserError, match=r"^the validation loss is nan at step 0, and no loss before it was finite"):
        finetune.main(replace(args, num_validation_rows=2))


def training_log(tmp_path, *, scaler, precision):
    accelerator = SimpleNamespace(
        scaler=scaler, distributed_type="NO", mixed_precision=precision, is_main_process=True, device="cpu"
    )
    return TrainingLog(tmp_path, accelerator, Progress(step=4), num_steps=9, every=100)


def with_results(log, *values):
    log.results = [StepResult(torch.tensor(loss), 0.1, torch.tensor(norm), 1, 1.0) for loss, norm in values]
    return log


def test_gradients_may_overflow_where_the_loss_is_scaled(tmp_path):
    results = ((2.0, 1.0), (3.0, math.inf))
    scaled = with_results(training_log(tmp_path, scaler=object(), precision="fp16"), *results)
    assert scaled.finite_results() == ([2.0, 3.0], [1.0, math.inf])
    plain = with_results(training_log(tmp_path, scaler=None, precision="bf16"), *results)
    with pytest.raises(UserError, match=r"the norm of the gradients is inf at step 4: training diverged .* 2; lower"):
        plain.finite_results()


def test_the_first_step_that_is_not_finite_is_named_with_the_loss_before_it(tmp_path):
    log = with_results(training_log(tmp_path, scaler=object(), precision="fp16"), (2.0, 1.0), (1.5, 1.0), (math.nan, 1))
    with pytest.raises(UserError, match=r"the loss is nan at step 4: .* 1.5; lower --learning_rate, or train .* bf16"):
        log.finite_results()


@pytest.mark.olmo
def test_pre_training_that_diverges_leaves_no_checkpoint(monkeypatch):
    monkeypatch.setattr(pretrain_tiny, "train_documents", lambda: ((f"{'cat dog ' * 40}{i}", True) for i in range(99)))
    args = pretrain_tiny.Args(
        steps=(0, 6), d_model=16, num_layers=1, num_heads=2, vocab_size=258, learning_rate=1e30, warmup_steps=0
    )
    with pytest.raises(UserError, match=r"at step \d: training diverged after the last finite loss"):
        pretrain_tiny.main(args)
    assert pretrain_tiny.checkpoint_artifact(args, 0).path.exists()
    assert not pretrain_tiny.checkpoint_artifact(args, 6).path.exists()


def test_no_clipping_by_a_norm_of_0_trains(args):
    """The weights of a run that is not clipped are those of a limit that no gradient reaches."""
    losses = []
    for max_norm in (0.0, 1e9):
        one = replace(args, max_grad_norm=max_norm, max_train_steps=4)
        finetune.main(one)
        log = (output_of(one) / "training_log.jsonl").read_text().splitlines()
        losses.append([(line["loss"], line["grad_norm"]) for line in map(json.loads, log)])
    assert losses[0] == losses[1]
    assert losses[0][-1][0] < losses[0][0][0]
