"""Fine-tuning: the loss is where it should be, and how examples are held at once changes nothing."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from toy_models import toy_olmo
from transformers import AutoModelForCausalLM

from open_instruct import finetune, paths
from open_instruct.encode import IGNORED, Encoded
from open_instruct.finetune import Args, TargetLoss, collate, example_order
from open_instruct.records import Artifact, UserError, read_sidecar, write_jsonl
from open_instruct.study import Checkpoint, Variant

ROWS = [("The cat sat", " on the mat"), ("The dog", " sat on the cat, and the dog sat"), ("yes or", " no")] * 4


@pytest.fixture
def args(tmp_path):
    """A toy base model with its identity, and a train file of 12 rows."""
    base = Variant(Checkpoint("tiny", 7))
    artifact = Artifact(base.folder, arguments={}, identity=base.identity())
    with artifact.making(is_folder=True):
        toy_olmo(base.folder)
    train = Artifact(paths.train_file("socialiqa"), arguments={}, identity={"train_set": "socialiqa"})
    with train.making():
        write_jsonl(train.path, ({"id": str(i), "prompt": p, "completion": c} for i, (p, c) in enumerate(ROWS)))
    return Args(str(base.folder), train.path, learning_rate=1e-3, num_train_epochs=2, total_batch_size=4)


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def largest_difference(one, other):
    return max((one[name] - other[name]).abs().max().item() for name in one)


def test_a_run_lowers_the_loss_and_leaves_a_named_loadable_model(args):
    finetune.main(args)
    folder = paths.fine_tuned_model("tiny_hf_ckpt7_socialiqa_2epoch_1e-3")
    log = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    # 12 rows, 2 epochs, 4 a step.
    assert [line["step"] for line in log] == [1, 2, 3, 4, 5, 6]
    assert log[-1]["loss"] < log[0]["loss"]
    meta = read_sidecar(folder)
    assert (meta["identity"]["step"], meta["identity"]["train_set"], meta["rows"]) == (7, "socialiqa", 12)
    assert largest_difference(weights(folder), weights(args.model_name_or_path)) > 0


def test_a_finished_run_is_skipped_and_other_arguments_are_refused(args, capsys):
    finetune.main(args)
    finetune.main(args)
    assert "done already" in capsys.readouterr().out
    named = replace(args, output_dir=paths.fine_tuned_model("tiny_hf_ckpt7_socialiqa_2epoch_1e-3"), max_train_rows=8)
    with pytest.raises(UserError, match="max_train_rows was None, now 8; add --overwrite"):
        finetune.main(named)


def test_how_many_examples_are_held_at_once_changes_nothing(args, tmp_path):
    folders = []
    for size in (1, 4):
        folders.append(tmp_path / f"held-{size}")
        finetune.main(replace(args, output_dir=folders[-1], per_device_train_batch_size=size))
    assert largest_difference(weights(folders[0]), weights(folders[1])) < 1e-5


def test_two_processes_give_the_weights_of_one(args, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    # 11 rows: the last step of an epoch has an odd number of examples, so one process has more than the other.
    finetune.main(replace(args, output_dir=one, max_train_rows=11, per_device_train_batch_size=1))
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"]
    command += [str(paths.REPOSITORY / "open_instruct" / "finetune.py"), "--output_dir", str(two)]
    command += ["--model_name_or_path", args.model_name_or_path, "--train_file", str(args.train_file)]
    command += ["--learning_rate", "1e-3", "--num_train_epochs", "2", "--total_batch_size", "4"]
    command += ["--max_train_rows", "11", "--per_device_train_batch_size", "1"]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    assert largest_difference(weights(one), weights(two)) < 1e-5


def test_the_loss_is_that_of_the_whole_model_on_its_targets(args):
    model = AutoModelForCausalLM.from_pretrained(args.model_name_or_path)
    ids, labels = [5, 9, 17, 30], [IGNORED, IGNORED, 17, 30]
    logits = model(torch.tensor([ids])).logits[0]
    expected = -sum(logits[i].log_softmax(-1)[token] for i, token in [(1, 17), (2, 30)])
    longer = Encoded([1, 2, 3, 4, 5, 6], [IGNORED] * 5 + [6])
    alone = TargetLoss(model)(*collate([Encoded(ids, labels)], torch.device("cpu")))
    both = TargetLoss(model)(*collate([Encoded(ids, labels), longer], torch.device("cpu")))
    other = TargetLoss(model)(*collate([longer], torch.device("cpu")))
    assert alone.item() == pytest.approx(expected.item(), abs=1e-4)
    assert both.item() == pytest.approx((alone + other).item(), abs=1e-4)


def test_each_epoch_has_every_row_once_in_an_order_of_its_own():
    order = example_order(5, num_epochs=2, seed=1)
    assert sorted(order[:5]) == sorted(order[5:]) == [0, 1, 2, 3, 4]
    assert order[:5] != order[5:]
    assert order == example_order(5, num_epochs=2, seed=1) != example_order(5, num_epochs=2, seed=2)


def test_rows_held_back_are_not_trained_on_but_logged(args):
    finetune.main(replace(args, num_validation_rows=4))
    folder = paths.fine_tuned_model("tiny_hf_ckpt7_socialiqa_2epoch_1e-3")
    log = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    assert read_sidecar(folder)["rows"] == 8
    # Before training and after each of the two epochs of 8 rows, 4 a step.
    assert [line["step"] for line in log if "validation_loss" in line] == [0, 2, 4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train_file": paths.REPOSITORY / "no" / "x.jsonl", "output_dir": paths.REPOSITORY / "x"},
            "no such train file; make it with",
        ),
        ({"max_train_rows": 13}, "12 rows, 0 of them held back; expected at least 13"),
        ({"model_name_or_path": "no/such/model", "output_dir": paths.REPOSITORY / "x"}, "neither a model folder nor"),
        ({"model_name_or_path": "no/such/model"}, "has no sidecar, so the output has no name; give --output_dir"),
    ],
)
def test_what_cannot_work_is_refused(args, changes, message):
    with pytest.raises(UserError, match=message):
        finetune.main(replace(args, **changes))


def test_a_folder_in_olmos_own_format_names_the_converter(args, tmp_path):
    (tmp_path / "native").mkdir()
    (tmp_path / "native" / "model.pt").touch()
    with pytest.raises(UserError, match=r"convert it first: python open_instruct/olmo_hf/convert_olmo_to_tf\.py"):
        finetune.main(replace(args, model_name_or_path=str(tmp_path / "native"), output_dir=tmp_path / "out"))
