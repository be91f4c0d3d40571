"""Every script that loads a model refuses a damaged one with one sentence and exit code 2, and writes nothing."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from damaged_models import (
    CONFIG,
    EMBEDDING,
    HEAD,
    LOADED,
    TOKENIZER,
    WEIGHTS,
    damaged,
    read_weights,
    replace_weights,
    shard,
    tied_twice,
    write_config,
    write_weights,
)
from toy_models import toy_adapter, toy_olmo

from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.model_files import weight_files
from open_instruct.common.model_loading import load_model, load_tokenizer

LINE = {"dataset": "rte", "id": "0", "prompt": "The cat", "completion": " entailment"}
PREDICT = "eval.predict --input_files rte.jsonl --model_name_or_path"
FINETUNE = "open_instruct.finetune --train_file train.jsonl --learning_rate 1e-3 --model_name_or_path"
SUITE = "olmo_eval.run_lm_eval --tasks copa --limit 2 --model_name_or_path"
MERGE = "open_instruct.merge_lora --lora_model_name_or_path adapter --output_dir merged --base_model_name_or_path"
NOISE = "eval.perturb_weights --input_file rte.jsonl --model_name_or_path"
DISTANCE = "eval.weight_distance --base_model good --model_name_or_path"
LINE_BETWEEN = "eval.interpolate_weights --base_model good --input_file rte.jsonl --model_name_or_path"
DAMAGES = {**WEIGHTS, **CONFIG, **LOADED, **TOKENIZER}
CASES = [
    *((command, name) for command in (PREDICT, FINETUNE, SUITE, MERGE, NOISE, LINE_BETWEEN) for name in DAMAGES),
    *((DISTANCE, name) for name in (*WEIGHTS, *CONFIG, "not_finite")),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model in good/, and an adapter of it in adapter/."""
    folder = tmp_path_factory.mktemp("models")
    toy_olmo(folder / "good", initializer_range=0.3)
    toy_adapter(folder / "good", folder / "adapter")
    return folder


@pytest.fixture
def home(made, tmp_path, monkeypatch):
    """An empty base_dir, and a working folder with data and links to the model and the adapter."""
    (tmp_path / "base").mkdir()
    monkeypatch.setenv("base_dir", str(tmp_path / "base"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    for name in ("good", "adapter"):
        Path(name).symlink_to(made / name)
    Path("rte.jsonl").write_text(json.dumps(LINE) + "\n")
    Path("train.jsonl").write_text(json.dumps(LINE | {"dataset": "mine"}) + "\n")
    return tmp_path


def refusal(command: str, monkeypatch, capsys) -> str:
    """What the script prints to stderr, its exit code being 2."""
    script, *arguments = command.split()
    module = importlib.import_module(script)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(SystemExit) as ended:
        run(module.main, module.Args)
    printed = capsys.readouterr().err
    assert ended.value.code == 2, printed
    # In the process of the tests, the progress bars of the libraries are shown.
    return "\n".join(
        line for line in re.split(r"[\r\n]+", printed) if line and "it/s" not in line and "?it" not in line
    )


@pytest.mark.parametrize(("command", "name"), CASES, ids=lambda each: each.split()[0])
def test_damaged_models_are_refused(command, name, made, home, monkeypatch, capsys):
    damage, expected = DAMAGES[name]
    damaged(made / "good", home / "model", damage)
    line = refusal(f"{command} model", monkeypatch, capsys)
    assert line.startswith("error: ")
    assert re.search(expected, line), line
    assert line.count("\n") == 0, line
    written = [path for path in (home / "base").rglob("*") if path.is_file()]
    assert [path for path in written if not {"hashes", "encoded", "locks"} & set(path.parts)] == []
    assert not (home / "merged").exists()
    assert not (home / "model" / "executed").exists()


def test_shards_are_read_like_a_single_file(made, tmp_path):
    folder = damaged(made / "good", tmp_path / "sharded", shard)
    assert weight_files(folder).keys() == weight_files(made / "good").keys()
    ids = torch.tensor([[5, 9, 17]])
    assert torch.equal(load_model(folder)(ids).logits, load_model(made / "good")(ids).logits)


def test_the_proposed_conversion_of_pickles_gives_the_model(made, tmp_path):
    folder = damaged(made / "good", tmp_path / "pickled", WEIGHTS["pickled"][0])
    with pytest.raises(UserError, match="convert") as refused:
        weight_files(folder)
    code = re.search(r'-c "(.*)"` if', str(refused.value))
    assert code is not None
    exec(code[1])
    ids = torch.tensor([[5, 9, 17]])
    assert torch.equal(load_model(folder)(ids).logits, load_model(made / "good")(ids).logits)


def test_tied_weights_stored_twice_alike_are_one(made, tmp_path):
    def store_twice(folder: Path) -> None:
        write_config(folder, tie_word_embeddings=True)
        replace_weights(folder, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING]}))

    model = load_model(damaged(made / "good", tmp_path / "twice", store_twice))
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_an_untied_head_of_a_config_that_is_corrected_is_loaded(made, tmp_path):
    folder = damaged(made / "good", tmp_path / "corrected", tied_twice)
    write_config(folder, tie_word_embeddings=False)
    assert not torch.equal(load_model(folder).lm_head.weight, load_model(folder).model.embed_tokens.weight)


def test_code_of_a_models_folder_is_not_run_where_transformers_has_its_type(made, tmp_path):
    def with_code(folder: Path) -> None:
        write_config(folder, auto_map={"AutoConfig": "code.Foo", "AutoModelForCausalLM": "code.Foo"})
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config |= {"auto_map": {"AutoTokenizer": ["code.Foo", None]}, "tokenizer_class": "FooTokenizer"}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        (folder / "code.py").write_text(f"open({str(folder / 'executed')!r}, 'w')\n")

    folder = damaged(made / "good", tmp_path / "code", with_code)
    assert type(load_model(folder)).__name__ == "OlmoForCausalLM"
    assert load_tokenizer(folder).get_vocab() == load_tokenizer(made / "good").get_vocab()
    assert not (folder / "executed").exists()


def test_a_model_that_is_tied_twice_alike_is_trained_and_saved_as_tied(made, home, monkeypatch):
    outputs = []
    for names in ([EMBEDDING], [EMBEDDING, HEAD]):

        def store(folder: Path, names=names) -> None:
            write_config(folder, tie_word_embeddings=True)
            tensors = read_weights(folder)
            del tensors[HEAD]
            write_weights(folder, tensors | dict.fromkeys(names, tensors[EMBEDDING]))

        model = damaged(made / "good", home / f"tied{len(names)}", store)
        outputs.append(home / f"tuned{len(names)}")
        command = f"{FINETUNE} {model} --max_train_steps 2 --output_dir {outputs[-1]}"
        script, *arguments = command.split()
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        module = importlib.import_module(script)
        run(module.main, module.Args)
    once, twice = (load_model(folder) for folder in outputs)
    assert all(torch.equal(one, other) for one, other in zip(once.parameters(), twice.parameters(), strict=True))
    assert twice.lm_head.weight is twice.model.embed_tokens.weight
    assert not torch.equal(twice.lm_head.weight, load_model(home / "tied1").lm_head.weight)
