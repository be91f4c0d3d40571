"""Trackers receive the same numbers as the log."""

import json
from dataclasses import replace

import pytest
from toy_training import FOLDER_NAME, toy_training

from open_instruct import finetune
from open_instruct.common import paths
from open_instruct.common.errors import UserError


def test_tensorboard_receives_the_numbers_of_the_log():
    pytest.importorskip("tensorboard", reason="TensorBoard is optional")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    finetune.main(replace(toy_training(), with_tracking=True, num_validation_rows=4))
    log = paths.fine_tuned_model(FOLDER_NAME) / "training_log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    events = EventAccumulator(str(paths.base_dir() / "output" / "tracking" / FOLDER_NAME))
    events.Reload()
    for name in ("loss", "lr", "grad_norm", "tokens_per_second", "validation_loss"):
        expected = [(line["step"], line[name]) for line in lines if name in line]
        assert [(event.step, pytest.approx(event.value)) for event in events.Scalars(name)] == expected


def test_a_tracker_that_is_not_installed_is_refused_before_training(monkeypatch):
    args = toy_training()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="--report_to wandb: not installed; pip install wandb"):
        finetune.main(replace(args, with_tracking=True, report_to=("wandb",)))
    assert not paths.fine_tuned_model(FOLDER_NAME).exists()
