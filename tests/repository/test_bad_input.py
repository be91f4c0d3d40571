"""Every script refuses bad input with one sentence and exit code 2, and leaves nothing behind."""

import dataclasses
import importlib
import json
import re
import shutil
import sys
import typing
from pathlib import Path

import pytest
from all_scripts import SCRIPTS, script_named
from toy_models import toy_olmo

from open_instruct.common.cli import parse, run
from open_instruct.common.errors import UserError
from open_instruct.common.paths import REPOSITORY
from open_instruct.common.ranges import RANGES

ANY_NUMBER = {"step", "steps"}
"""Numbers that the scripts themselves compare with what there is."""
LINE = {"dataset": "rte", "id": "0", "prompt": "The cat", "completion": " entailment"}


def numeric_options():
    for name in SCRIPTS:
        args_type = script_named(name).Args
        for field, hint in typing.get_type_hints(args_type).items():
            kinds = {kind for kind in (int, float) if kind in flat(hint)}
            if kinds and field in {one.name for one in dataclasses.fields(args_type)}:
                yield name, field, float in kinds


def flat(hint) -> set:
    return {hint}.union(*(flat(inner) for inner in typing.get_args(hint)))


def test_every_number_has_a_range():
    assert {field for _, field, _ in numeric_options()} - ANY_NUMBER <= RANGES.keys()


@pytest.mark.parametrize(("script", "name", "is_float"), numeric_options())
def test_numbers_out_of_range_are_refused_by_name(script, name, is_float):
    if name in ANY_NUMBER:
        return
    args_type = script_named(script).Args
    needed = []
    for field in dataclasses.fields(args_type):
        if field.default is dataclasses.MISSING and field.name not in (name, "study", "folder"):
            needed += [f"--{field.name}", "1"]
    positional = (
        ["x"] if {"study", "folder"} & {f.name for f in dataclasses.fields(args_type) if is_required(f)} else []
    )
    for value in ("-1", *(["nan", "inf", "-inf"] if is_float else ["-99999999999999999999"])):
        with pytest.raises(UserError, match=rf"--{name}: expected a number .*, found"):
            parse(args_type, [*positional, *needed, f"--{name}", value])


def is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model, and one whose weights are cut."""
    folder = tmp_path_factory.mktemp("models")
    toy_olmo(folder / "good")
    weights = shutil.copytree(folder / "good", folder / "cut") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    base = tmp_path / "base"
    base.mkdir()
    monkeypatch.setenv("base_dir", str(base))
    monkeypatch.setenv("data_dir", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    Path("rte.jsonl").write_text(json.dumps(LINE) + "\n")
    Path("train.jsonl").write_text(json.dumps(LINE | {"dataset": "mine"}) + "\n")
    Path("empty.jsonl").touch()
    Path("binary").write_bytes(b"\xff\xfe\x00")
    Path("text.yaml").write_text("hello\n")
    Path("cut.yaml").write_text("a: [\n")
    Path("twice.yaml").write_text("name: x\nname: y\n")
    Path("folder").mkdir()
    return base


def refusal(script: str, arguments: list[str], monkeypatch, capsys) -> str:
    """The one line on stderr."""
    module = importlib.import_module(script)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(SystemExit) as ended:
        run(module.main, script_named(script).Args)
    printed = capsys.readouterr().err
    assert ended.value.code == 2, printed
    # In the process of the tests, the progress bars of the libraries are shown.
    lines = [line for line in re.split(r"[\r\n]+", printed) if line and not line.startswith("Loading weights")]
    assert lines[0].startswith("error: "), printed
    return "\n".join(lines)


def written(home: Path) -> list[Path]:
    """The files, without those of caches."""
    files = [path for path in home.rglob("*") if path.is_file()]
    return [path for path in files if not {"hashes", "encoded", "locks"} & set(path.parts)]


COMMANDS = {
    "eval.predict --model_name_or_path GOOD --input_files train.jsonl": "unknown evaluation set mine",
    "eval.predict --model_name_or_path GOOD --input_files folder": "folder",
    "eval.predict --model_name_or_path GOOD --input_files empty.jsonl": "no records",
    "eval.predict --model_name_or_path GOOD --input_files binary": "",
    "eval.predict --model_name_or_path GOOD --input_files": "--input_files without a value",
    "eval.predict --model_name_or_path GOOD --input_files rte.jsonl --output_file train.jsonl/x": "",
    "eval.predict --model_name_or_path GOOD --input_files rte.jsonl --output_file /proc/x/y.jsonl": "/proc",
    "eval.predict --model_name_or_path GOOD --input_files rte.jsonl --output_file folder": "folder",
    "eval.predict --model_name_or_path GOOD --input_files rte.jsonl --use_vllm": "not installed",
    "eval.predict --model_name_or_path GOOD --input_files rte.jsonl --num_shots 2": "exemplars",
    "eval.predict --model_name_or_path GOOD --input_files rte.jsonl --model_name ../x": "file name",
    "eval.predict --model_name_or_path GOOD --input_files rte.jsonl --model_name=": "--model_name: an empty value",
    "eval.predict --model_name_or_path nowhere --input_files rte.jsonl": "no such folder",
    "open_instruct.finetune --model_name_or_path GOOD --learning_rate 1 --train_file folder": "a folder",
    "open_instruct.finetune --model_name_or_path GOOD --learning_rate 1 --train_file empty.jsonl": "",
    "open_instruct.finetune --model_name_or_path GOOD --learning_rate nan --train_file train.jsonl": "found nan",
    "open_instruct.finetune --model_name_or_path GOOD --learning_rate 1 --train_file rte.jsonl --output_dir /sys": "",
    "open_instruct.finetune --model_name_or_path GOOD --train_file x --num_train_epochs 1000000 --seed 4294967296": (
        "--num_train_epochs: expected a number at least 1 and at most 10,000, found 1000000; --seed: .*4,294,967,295"
    ),
    "open_instruct.finetune --model_name_or_path GOOD --train_file rte.jsonl --learning_rate 1 "
    "--per_device_train_batch_size 9999 --gradient_accumulation_steps 9999": "total_batch_size: .*found 99980001",
    "olmo_eval.run_lm_eval --model_name_or_path GOOD --tasks zzz": "unknown task",
    "olmo_eval.run_lm_eval --model_name_or_path GOOD --tasks copa --split zzz": "",
    "olmo_eval.run_lm_eval --model_name_or_path GOOD --config_file binary": "UTF-16, not UTF-8; save the file as UTF-8",
    "olmo_eval.run_lm_eval --model_name_or_path GOOD --task_file folder": "",
    "open_instruct.format_generalization --eval_sets": "--eval_sets without a value",
    "open_instruct.format_generalization --eval_sets zzz": "zzz",
    "open_instruct.format_generalization --datasets_file folder": "folder",
    "open_instruct.download_olmo_ckpts --family zzz --list": "unknown family",
    "open_instruct.download_olmo_ckpts --steps abc": "expected numbers or main",
    "open_instruct.check_checkpoints --family zzz": "unknown family",
    "open_instruct.check_contamination --input_files rte.jsonl --text_dir nowhere": "nowhere: no such folder",
    "open_instruct.check_contamination --input_files rte.jsonl --text_dir folder": "folder: no file in it",
    "open_instruct.check_contamination --input_files nowhere --text_dir base": "nowhere|no file in it",
    "open_instruct.check_data": "no formatted data",
    "open_instruct.check_data --tokenizer nowhere": "",
    "open_instruct.merge_lora --output_dir x --lora_model_name_or_path GOOD": "no adapter_config.json",
    "open_instruct.pretrain_tiny --vocab_size 3 --d_model 7": "d_model is 7.*vocab_size is 3",
    "open_instruct.olmo_hf.convert_olmo_to_tf --input_dir folder": "lacks config.yaml",
    "eval.eval_pred --input_files nowhere": "nowhere",
    "eval.eval_pred --input_files rte.jsonl --against": "--against without a value",
    "eval.weight_distance --model_name_or_path CUT --base_model GOOD": "is cut or damaged",
    "eval.perturb_weights --model_name_or_path GOOD": "no such file",
    "eval.interpolate_weights --model_name_or_path GOOD --base_model nowhere": "nowhere: no such folder",
    "eval.predict_sweep --models --input_files rte.jsonl": "--model_name_or_path without a value",
    "analysis.produce_tables --study nowhere": "no such",
    "analysis.report --study folder": "",
    "analysis.plotting --folder nowhere": "nowhere",
    "analysis.findings --folder nowhere": "nowhere",
    "analysis.compare_paper --released nowhere": "nowhere.*no such table",
    "analysis.run_notebook --folder nowhere": "nowhere",
    "scripts.run_study nowhere": "no such study",
    "scripts.run_study folder": "",
    "scripts.run_study empty.jsonl": "it is empty",
    "scripts.run_study binary": "UTF-16, not UTF-8; save the file as UTF-8",
    "scripts.run_study text.yaml": "expected a mapping",
    "scripts.run_study cut.yaml": r"cut\.yaml:2: not YAML \(expected the node content.*\)$",
    "scripts.run_study twice.yaml": "name is repeated",
    "scripts.run_study STUDY --dry_run --set x": "expected key=value",
    "scripts.run_study STUDY --dry_run --set x=1": "unknown key x",
    "scripts.run_study STUDY --dry_run --set =1": "expected key=value",
    "scripts.run_study STUDY --dry_run --set seed=[": "is not YAML",
    "scripts.run_study STUDY --dry_run --set seed=-1": "seed: expected a number at least 0",
    "scripts.run_study STUDY --dry_run --set train_sets=3": "expected a mapping",
    "scripts.run_study STUDY --dry_run --set suite.tasks=zzz": "unknown task zzz",
    "scripts.run_study STUDY --dry_run --only zzz": "no such stage",
    "scripts.run_study STUDY --dry_run --only": "--only without a value",
    "scripts.run_job folder --index 1": "",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_bad_input_is_refused(command, models, home, monkeypatch, capsys):
    places = {"GOOD": models / "good", "CUT": models / "cut", "STUDY": REPOSITORY / "scripts/studies/tiny.yaml"}
    script, *arguments = [str(places.get(part, part)) for part in command.split()]
    line = refusal(script, arguments, monkeypatch, capsys)
    assert re.search(COMMANDS[command], line), line
    assert written(home) == []
