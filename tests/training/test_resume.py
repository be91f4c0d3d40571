"""A run that was stopped or killed resumes to the same weights, bit for bit, and the same log."""

import signal
from dataclasses import replace

import pytest
from killing import assert_same, kill_at_random_moments
from toy_training import FOLDER_NAME, toy_training

from open_instruct import finetune
from open_instruct.common import paths
from open_instruct.common.errors import SAVED_AND_STOPPED, UserError
from open_instruct.common.sidecars import read_sidecar
from open_instruct.training import loop
from open_instruct.training.state import State


@pytest.fixture
def args():
    return toy_training()


def start_until_done(args) -> int:
    """-> number of starts"""
    for number in range(1, 20):
        code = 0
        try:
            finetune.main(args)
        except SystemExit as stopped:
            code = stopped.code
        if code == 0:
            return number
        assert code == SAVED_AND_STOPPED
    raise AssertionError("never done")


def test_a_run_stopped_after_every_step_ends_with_the_same_weights(args, tmp_path, device):
    args = replace(args, mixed_precision="bf16" if device.type == "cuda" else "no")
    # Dropout: the random state must be restored. Early stopping: so must the best weights so far.
    args = replace(args, use_lora=True, lora_rank=4, lora_dropout=0.3, num_validation_rows=4, early_stopping_patience=5)
    finetune.main(replace(args, output_dir=tmp_path / "uninterrupted"))
    stop_file = tmp_path / "stop"
    stop_file.touch()
    # 8 rows, 2 epochs, 4 a step.
    assert start_until_done(replace(args, output_dir=tmp_path / "pieces", stop_file=stop_file)) == 4
    assert_same(tmp_path / "uninterrupted", tmp_path / "pieces")
    assert read_sidecar(tmp_path / "pieces")["sessions"] == 4
    assert stop_file.read_text() == f"{tmp_path / 'pieces.state' / 'step-3'}\n"
    assert not (tmp_path / "pieces.state").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_the_state_and_ends_with_exit_code_85(args, tmp_path, monkeypatch, number):
    finetune.main(replace(args, output_dir=tmp_path / "uninterrupted"))
    step = loop.optimiser_step

    def signalled(run, progress, add_gradients):
        result = step(run, progress, add_gradients)
        if progress.step == 2 and progress.sessions == 1:
            signal.raise_signal(number)
        return result

    monkeypatch.setattr(loop, "optimiser_step", signalled)
    handler = signal.getsignal(number)
    stopped = replace(args, output_dir=tmp_path / "stopped", checkpointing_steps="never")
    with pytest.raises(SystemExit) as ended:
        finetune.main(stopped)
    assert ended.value.code == SAVED_AND_STOPPED == 85
    assert [path.name for path in (tmp_path / "stopped.state").glob("step-*")] == ["step-2"]
    assert signal.getsignal(number) == handler
    finetune.main(stopped)
    assert_same(tmp_path / "uninterrupted", tmp_path / "stopped")


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_with_the_same_weights(args, tmp_path):
    # Saved after each step, so that some kills interrupt saving.
    kill_at_random_moments(replace(args, output_dir=tmp_path / "out", checkpointing_steps="1"), 4)


def test_a_state_of_another_run_is_refused(args, tmp_path):
    stop_file = tmp_path / "stop"
    stop_file.touch()
    args = replace(args, output_dir=tmp_path / "out", stop_file=stop_file)
    with pytest.raises(SystemExit):
        finetune.main(args)
    with pytest.raises(UserError, match=r"another run: learning_rate was 0\.001, now 0\.1; .* add --overwrite"):
        finetune.main(replace(args, learning_rate=0.1))
    with pytest.raises(UserError, match="has no state to resume from"):
        finetune.main(replace(args, resume_from_checkpoint=str(tmp_path)))
    finetune.main(replace(args, learning_rate=0.1, overwrite=True, stop_file=None))
    assert read_sidecar(tmp_path / "out")["sessions"] == 1


def test_a_state_of_another_content_of_the_train_file_is_refused(args, tmp_path):
    stop_file = tmp_path / "stop"
    stop_file.touch()
    with pytest.raises(SystemExit):
        finetune.main(replace(args, stop_file=stop_file))
    stop_file.unlink()
    args.train_file.write_text(args.train_file.read_text().replace(" on the mat", " on the hat"))
    with pytest.raises(UserError, match=r"step-1 was saved by another run: the content of train_file is another one; "):
        finetune.main(args)
    finetune.main(replace(args, overwrite=True))
    assert paths.fine_tuned_model(FOLDER_NAME).is_dir()


def test_a_run_resumes_from_the_state_of_another_output(args, tmp_path, monkeypatch):
    finetune.main(replace(args, output_dir=tmp_path / "uninterrupted"))
    monkeypatch.setattr(State, "clear", lambda self: None)
    finetune.main(replace(args, output_dir=tmp_path / "first", checkpointing_steps="3"))
    again = replace(args, output_dir=tmp_path / "again", resume_from_checkpoint=str(tmp_path / "first.state"))
    finetune.main(again)
    assert read_sidecar(tmp_path / "again")["sessions"] == 2
    assert_same(tmp_path / "uninterrupted", tmp_path / "again")


def test_a_state_of_another_number_of_processes_is_refused(args, tmp_path):
    stop_file = tmp_path / "stop"
    stop_file.touch()
    with pytest.raises(SystemExit):
        finetune.main(replace(args, stop_file=stop_file))
    (progress,) = paths.fine_tuned_model(f"{FOLDER_NAME}.state").glob("*/progress.json")
    progress.write_text(progress.read_text().replace('"num_processes": 1', '"num_processes": 2'))
    with pytest.raises(UserError, match="was saved by 2 processes, now there are 1; start as many, or start over"):
        finetune.main(args)
