"""A pre-training run is another initialisation and another order of the text; its checkpoints depend on neither the
number of steps that follow nor the device."""

import random

import numpy as np
import pytest
import torch
from devices import on_cpu
from toy_training import largest_difference

from open_instruct import pretrain_tiny
from open_instruct.common.sidecars import read_sidecar
from open_instruct.pretrain_tiny import SEQUENCE_LENGTH, checkpoint_artifact, training_batches

NUM_ROWS, ROWS_A_STEP = 20, 8


@pytest.fixture(autouse=True)
def toy_corpus(monkeypatch):
    """About 9,000 bytes, of which the vocabulary of bytes makes four steps' rows and a part of a fifth's."""
    rng = random.Random(0)
    documents = [" ".join(rng.choices(["cat", "dog", "mat", "sat", "the"], k=20)) for _ in range(114)]
    monkeypatch.setattr(pretrain_tiny, "train_documents", lambda: ((text, True) for text in documents))


def pretrain(*steps: int, seed: int = 1) -> dict[int, tuple[dict[str, torch.Tensor], list[float]]]:
    """-> weights and losses so far, by step."""
    args = pretrain_tiny.Args(steps=steps, d_model=16, num_layers=1, num_heads=2, vocab_size=258, seed=seed)
    pretrain_tiny.main(args)
    folders = {step: checkpoint_artifact(args, step).path for step in steps}
    return {
        step: (
            # Without map_location: a file of a GPU's tensors could not be read on a machine without one.
            torch.load(folder / "model.pt", weights_only=True),
            [line["loss"] for line in read_sidecar(folder)["training_log"]],
        )
        for step, folder in folders.items()
    }


def row_numbers(num_steps: int, seed: int = 1) -> list[int]:
    rows = np.repeat(np.arange(NUM_ROWS), SEQUENCE_LENGTH).reshape(NUM_ROWS, SEQUENCE_LENGTH)
    batches = training_batches(rows, num_steps=num_steps, seed=seed)
    assert [batch.shape for batch in batches] == [(ROWS_A_STEP, SEQUENCE_LENGTH)] * num_steps
    return [int(row[0]) for batch in batches for row in batch]


def test_every_pass_has_all_rows_in_an_order_of_its_own(capsys):
    found = row_numbers(7)
    assert "7 steps are 2.8 passes over the text" in capsys.readouterr().out
    first, second, part = found[:NUM_ROWS], found[NUM_ROWS : 2 * NUM_ROWS], found[2 * NUM_ROWS :]
    assert sorted(first) == sorted(second) == list(range(NUM_ROWS))
    assert len(set(part)) == len(part) == 7 * ROWS_A_STEP - 2 * NUM_ROWS
    assert first != second
    assert part not in (first[: len(part)], second[: len(part)])


def test_one_pass_is_not_announced_and_step_0_needs_no_rows(capsys):
    assert row_numbers(2) == row_numbers(7)[: 2 * ROWS_A_STEP]
    capsys.readouterr()
    row_numbers(2)
    assert row_numbers(0) == []
    assert not capsys.readouterr().out


def test_the_seed_orders_the_rows():
    assert row_numbers(2) == row_numbers(2, seed=1)
    assert row_numbers(2) != row_numbers(2, seed=2)


@pytest.mark.olmo
def test_a_checkpoint_is_the_same_whatever_steps_follow(base_dir, monkeypatch, capsys):
    short = pretrain(0, 3)
    (base_dir / "other").mkdir()
    monkeypatch.setenv("base_dir", str(base_dir / "other"))
    long = pretrain(3, 9)
    assert "passes over the text" in capsys.readouterr().out
    assert largest_difference(short[3][0], long[3][0]) == 0.0
    assert long[9][1][:3] == short[3][1]
    assert long[9][1][-1] < long[9][1][0]


@pytest.mark.olmo
def test_two_seeds_are_two_initialisations_and_two_orders(monkeypatch):
    one, other = pretrain(0, 1), pretrain(0, 1, seed=2)
    assert largest_difference(one[0][0], other[0][0]) > 0.0
    # With equal weights the losses of the first step still differ, by its rows.
    monkeypatch.setattr(torch, "manual_seed", lambda seed, fixed=torch.manual_seed: fixed(0))
    third, fourth = pretrain(0, 1, seed=3), pretrain(0, 1, seed=4)
    assert largest_difference(third[0][0], fourth[0][0]) == 0.0
    assert third[1][1] != fourth[1][1]


@pytest.mark.olmo
def test_each_device_gives_the_losses_of_the_cpu_and_files_that_any_machine_reads(base_dir, monkeypatch, device):
    with on_cpu():
        expected = pretrain(0, 6)
    (base_dir / "other").mkdir()
    monkeypatch.setenv("base_dir", str(base_dir / "other"))
    found = pretrain(0, 6)
    assert {tensor.device.type for tensor in found[6][0].values()} == {"cpu"}
    assert largest_difference(found[0][0], expected[0][0]) == 0.0
    assert found[6][1] == pytest.approx(expected[6][1], abs=2e-3)
