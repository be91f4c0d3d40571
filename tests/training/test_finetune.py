"""Fine-tuning from the command's arguments to the finished model."""

import json
import math
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from toy_training import FOLDER_NAME, largest_difference, launched, output_of, toy_training, weights
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from open_instruct import finetune
from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import write_jsonl
from open_instruct.common.sidecars import read_sidecar
from open_instruct.data.encode import IGNORED, Encoded, encode_messages
from open_instruct.training.batches import collate
from open_instruct.training.loop import clip_gradients, clip_inside_optimizer
from open_instruct.training.loss import TargetLoss


@pytest.fixture
def args():
    return toy_training()


def read_log(folder):
    return [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]


def test_a_run_lowers_the_loss_and_saves_a_loadable_model_named_by_its_recipe(args, capsys):
    finetune.main(args)
    printed = capsys.readouterr().err
    folder = paths.fine_tuned_model(FOLDER_NAME)
    log = read_log(folder)
    # 12 rows, 2 epochs, 4 a step.
    assert [line["step"] for line in log] == [1, 2, 3, 4, 5, 6]
    assert log[-1]["loss"] < log[0]["loss"]
    # The live loss, where there is no terminal.
    assert f"training: step 1/6 (17%), loss {log[0]['loss']:.4f}, learning rate 0.001, " in printed
    assert f"training: step 6/6 (100%), loss {log[-1]['loss']:.4f}" in printed
    assert {"lr", "grad_norm", "tokens_per_second", "seconds", "memory_bytes"} < log[0].keys()
    meta = read_sidecar(folder)
    assert (meta["identity"]["step"], meta["identity"]["train_set"], meta["rows"]) == (7, "socialiqa", 12)
    assert largest_difference(weights(folder), weights(args.model_name_or_path)) > 0
    assert not folder.with_name(f"{FOLDER_NAME}.state").exists()


@pytest.mark.parametrize("max_norm", [0.0, 0.01, 1e6])
def test_gradients_are_clipped_as_by_torch(max_norm):
    gradients = [torch.randn(8, 4), torch.randn(4)]
    ours, theirs = ([torch.nn.Parameter(torch.ones_like(gradient)) for gradient in gradients] for _ in range(2))
    for parameters in (ours, theirs):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
    run: Any = SimpleNamespace(
        accelerator=Accelerator(cpu=True),
        module=torch.nn.ParameterList(ours),
        args=SimpleNamespace(max_grad_norm=max_norm),
    )
    norm = clip_gradients(run)
    assert norm == pytest.approx(torch.nn.utils.clip_grad_norm_(theirs, max_norm or math.inf))
    for one, other, gradient in zip(ours, theirs, gradients, strict=True):
        # torch adds 1e-6 to the norm that it divides by.
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=0)
        assert torch.equal(one.grad, gradient) == (max_norm != 0.01)


@pytest.mark.parametrize("max_norm", [0.01, 1e6, math.inf])
def test_clipping_inside_adamw_gives_the_weights_of_clipping_before_it(device, max_norm):
    steps = [[torch.randn(8, 4, device=device), torch.randn(4, device=device)] for _ in range(3)]
    ours, theirs = ([torch.nn.Parameter(torch.ones_like(gradient)) for gradient in steps[0]] for _ in range(2))
    optimizers = [torch.optim.AdamW(parameters, lr=0.1, fused=True) for parameters in (ours, theirs)]
    for number, gradients in enumerate(steps, start=1):
        for parameters in (ours, theirs):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.clone() * number  # Adam ignores a factor that is the same in all steps
        norm = clip_inside_optimizer(optimizers[0], [p.grad for p in ours if p.grad is not None], max_norm)
        torch.testing.assert_close(norm, torch.nn.utils.clip_grad_norm_(theirs, max_norm))
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_generation_settings_chat_template_and_model_card_are_saved_with_the_weights(args):
    finetune.main(args)
    folder = paths.fine_tuned_model(FOLDER_NAME)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert GenerationConfig.from_pretrained(folder).eos_token_id == tokenizer.eos_token_id
    chat = [{"role": "user", "content": " The cat? "}, {"role": "assistant", "content": "sat"}]
    # The template formats a chat as training does.
    assert tokenizer.apply_chat_template(chat, return_dict=False) == encode_messages(tokenizer, chat).ids
    prompt = tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert prompt == "<|user|>\nThe cat?\n<|assistant|>\n"
    card = (folder / "README.md").read_text()
    assert "tiny, 7" in card
    assert "| Learning rate | 0.001, linear, warm-up 3% |" in card


def test_a_finished_run_is_skipped_and_other_arguments_are_refused(args, capsys):
    finetune.main(args)
    finetune.main(args)
    assert "done already" in capsys.readouterr().out
    named = replace(args, output_dir=paths.fine_tuned_model(FOLDER_NAME), max_train_rows=8)
    with pytest.raises(UserError, match="max_train_rows was None, now 8; add --overwrite"):
        finetune.main(named)


@pytest.mark.parametrize(
    "changes",
    [
        {"gradient_checkpointing": True},
        {"packing": True},
        {"max_tokens_per_batch": 20},
        pytest.param({"torch_compile": True, "packing": True}, marks=pytest.mark.slow),
    ],
)
def test_options_without_effect_on_results_have_none(args, tmp_path, changes):
    one, other = tmp_path / "one", tmp_path / "other"
    finetune.main(replace(args, output_dir=one))
    finetune.main(replace(args, output_dir=other, **changes))
    assert largest_difference(weights(one), weights(other)) < 1e-5
    assert [line["loss"] for line in read_log(one)] == pytest.approx(
        [line["loss"] for line in read_log(other)], abs=2e-5
    )


@pytest.mark.slow
def test_micro_batches_and_processes_give_the_same_weights(args, tmp_path):
    # 11 rows: the last step of an epoch has an odd number of examples, so one process has more than the other.
    args = replace(args, max_train_rows=11, total_batch_size=None)
    settings = {"1x4": (1, 4), "4x1": (4, 1)}
    for name, (per_device, accumulation) in settings.items():
        finetune.main(
            replace(
                args,
                output_dir=tmp_path / name,
                per_device_train_batch_size=per_device,
                gradient_accumulation_steps=accumulation,
            )
        )
    more = ["--max_train_rows", "11", "--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "1"]
    launched(replace(args, total_batch_size=4), *more, "--output_dir", str(tmp_path / "2 processes"), num_processes=2)
    logs = {name: read_log(tmp_path / name) for name in (*settings, "2 processes")}
    assert read_sidecar(tmp_path / "2 processes")["num_processes"] == 2
    for name, log in logs.items():
        assert largest_difference(weights(tmp_path / name), weights(tmp_path / "4x1")) < 1e-5
        assert [line["loss"] for line in log] == pytest.approx([line["loss"] for line in logs["4x1"]], abs=2e-5)


def test_the_loss_is_the_negative_log_likelihood_of_the_targets(args):
    model = AutoModelForCausalLM.from_pretrained(args.model_name_or_path)
    ids, labels = [5, 9, 17, 30], [IGNORED, IGNORED, 17, 30]
    logits = model(torch.tensor([ids])).logits[0]
    expected = -sum(logits[i].log_softmax(-1)[token] for i, token in [(1, 17), (2, 30)])
    longer = Encoded([1, 2, 3, 4, 5, 6], [IGNORED] * 5 + [6])
    alone = TargetLoss(model)(*collate([Encoded(ids, labels)], packing=False))
    both = TargetLoss(model)(*collate([Encoded(ids, labels), longer], packing=False))
    other = TargetLoss(model)(*collate([longer], packing=False))
    assert alone.item() == pytest.approx(expected.item(), abs=1e-4)
    assert both.item() == pytest.approx((alone + other).item(), abs=1e-4)


def test_rows_held_back_for_validation_are_logged_and_not_trained_on(args):
    args = replace(args, num_validation_rows=4)
    finetune.main(args)
    folder = output_of(args)
    assert read_sidecar(folder)["rows"] == 8
    # Before training and after each of the two epochs of 8 rows, 4 a step.
    assert [line["step"] for line in read_log(folder) if "validation_loss" in line] == [0, 2, 4]


def test_early_stopping_keeps_the_weights_with_the_lowest_validation_loss(args, tmp_path):
    # The validation example contradicts the train examples: after the first epoch its loss rises.
    held_back = tmp_path / "held back.jsonl"
    write_jsonl(held_back, [{"id": "0", "prompt": "The cat sat", "completion": " on the cat"}])
    many = replace(
        args, num_train_epochs=12, learning_rate=1e-2, lr_scheduler_type="constant", output_dir=tmp_path / "s"
    )
    finetune.main(replace(many, validation_file=held_back, early_stopping_patience=2))
    log = read_log(tmp_path / "s")
    losses = {line["step"]: line["validation_loss"] for line in log if "validation_loss" in line and line["step"] > 0}
    meta = read_sidecar(tmp_path / "s")
    assert meta["best_step"] == min(losses, key=lambda step: losses[step])
    # It stops two epochs of three steps later, with the weights of a run that ends at the best step.
    assert max(losses) == meta["best_step"] + 6 < 36
    finetune.main(replace(many, max_train_steps=meta["best_step"], output_dir=tmp_path / "short"))
    assert largest_difference(weights(tmp_path / "s"), weights(tmp_path / "short")) == 0


def test_the_schedule_ends_at_max_train_steps(args):
    args = replace(args, max_train_steps=4, warmup_ratio=0.0, logging_steps=2)
    finetune.main(args)
    log = read_log(output_of(args))
    # Linear from 1e-3 to 0 in four steps; a line has the rate of its last step.
    assert [(line["step"], line["lr"]) for line in log] == [(2, pytest.approx(7.5e-4)), (4, pytest.approx(2.5e-4))]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_file": paths.REPOSITORY / "no" / "x.jsonl"}, "no such train file; make it with"),
        ({"max_train_rows": 13}, "12 rows, 0 of them held back for validation; expected at least 13"),
        ({"model_name_or_path": "no/such/model"}, "no such folder, and on the Hub"),
        ({"model_name_or_path": "/no/such/model"}, "no such folder; expected a model"),
        ({"total_batch_size": 8, "gradient_accumulation_steps": 3}, "total_batch_size is 8, but .* = 3; give one"),
        ({"keep_weights": "lora", "early_stopping_patience": 1}, r"patience needs .*none is trained; add --use_lora"),
        ({"keep_weights": "none"}, "would leave nothing; name the evaluations to run by --then"),
        ({"early_stopping_patience": 1}, "needs validation_file or num_validation_rows"),
        ({"checkpointing_steps": "often"}, "expected epoch, never or a number of steps"),
        ({"checkpointing_steps": "0"}, "expected epoch, never or a number of steps above 0"),
    ],
)
def test_invalid_arguments_are_refused(args, changes, message):
    with pytest.raises(UserError, match=message):
        finetune.main(replace(args, **changes))


def test_compiling_without_a_compiler_is_refused(args, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda program: None)
    with pytest.raises(UserError, match=r"torch_compile needs a C\+\+ compiler, and none is found"):
        finetune.main(replace(args, torch_compile=True))


def test_a_model_and_a_train_file_of_ones_own_give_the_output_a_name_that_no_other_has(args, tmp_path):
    outputs = set()
    for run in ("runA", "runB"):
        model, train_file = tmp_path / run / "checkpoint-1000", tmp_path / run / "train.jsonl"
        shutil.copytree(args.model_name_or_path, model, ignore=shutil.ignore_patterns("meta.json"))
        shutil.copy(args.train_file, train_file)
        own = replace(args, model_name_or_path=str(model), train_file=train_file, max_train_steps=1)
        finetune.main(own)
        outputs.add(output_of(own).name)
        assert sorted(path.name for path in model.parent.iterdir()) == ["checkpoint-1000", "train.jsonl"]
    pattern = r"checkpoint-1000-[0-9a-f]{8}_train-[0-9a-f]{8}_2epoch_1e-3_bs4_fp32_steps1"
    assert len(outputs) == 2
    assert all(re.fullmatch(pattern, name) for name in outputs)


def test_a_folder_in_olmos_own_format_names_the_converter(args, tmp_path):
    (tmp_path / "native").mkdir()
    (tmp_path / "native" / "model.pt").touch()
    with pytest.raises(UserError, match=r"convert it first: python open_instruct/olmo_hf/convert_olmo_to_tf\.py"):
        finetune.main(replace(args, model_name_or_path=str(tmp_path / "native"), output_dir=tmp_path / "out"))


def test_an_example_that_does_not_fit_is_named_by_file_and_id(args):
    with pytest.raises(UserError, match=r"socialiqa\.jsonl: 0: its completion alone exceeds max_seq_length 2"):
        finetune.main(replace(args, max_seq_length=2))


def test_a_run_that_diverges_is_an_error_that_says_so(args):
    with pytest.raises(UserError, match=r"the loss is nan at step .*: training diverged.*lower --learning_rate"):
        finetune.main(replace(args, learning_rate=1e30))


def test_a_run_that_exceeds_the_free_memory_is_refused_before_training(args, monkeypatch):
    monkeypatch.setattr("open_instruct.training.memory.available_bytes", lambda *_, **__: 1000)
    with pytest.raises(UserError, match=r"this needs about .* GB are free; what helps: --use_lora; more devices"):
        finetune.main(args)
    assert not paths.fine_tuned_model(FOLDER_NAME).exists()
    finetune.main(replace(args, check_memory=False))


def test_then_commands_see_the_finished_model_before_its_weights_are_removed(args, tmp_path):
    output = tmp_path / "size.txt"
    script = tmp_path / "evaluate.py"
    script.write_text(
        "import sys, pathlib\n"
        "pathlib.Path(sys.argv[2]).write_text(str(pathlib.Path(sys.argv[1], 'model.safetensors').stat().st_size))\n"
    )
    folder = paths.fine_tuned_model(FOLDER_NAME)
    args = replace(args, keep_weights="none", then=(f"{script} {folder} {output}",))
    finetune.main(args)
    assert int(output.read_text()) > 0
    assert not (folder / "model.safetensors").exists()
    assert (folder / "training_log.jsonl").exists()
    output.unlink()
    finetune.main(args)  # done: neither trains nor evaluates again
    assert not output.exists()


def test_a_failed_then_command_keeps_the_weights_for_the_next_start(args, tmp_path):
    failing = tmp_path / "fail.py"
    failing.write_text("raise SystemExit(3)")
    with pytest.raises(SystemExit) as stopped:
        finetune.main(replace(args, keep_weights="none", then=(str(failing),)))
    assert stopped.value.code == 3
    folder = paths.fine_tuned_model(FOLDER_NAME)
    assert (folder / "model.safetensors").exists()
    failing.write_text("")
    finetune.main(replace(args, keep_weights="none", then=(str(failing),)))
    assert not (folder / "model.safetensors").exists()
