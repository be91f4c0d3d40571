"""Models of the Hub by name: where the Hub breaks off, one sentence and exit code 2, and a second run goes on."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
from loopback_http import error
from loopback_hub import LoopbackHub
from toy_models import toy_olmo

from open_instruct.common.cli import run
from open_instruct.common.errors import USER_ERROR

LINE = {"dataset": "rte", "id": "0", "prompt": "The cat", "completion": " entailment"}
COMMANDS = [
    "eval.predict --input_files rte.jsonl --output_file out.jsonl --max_new_tokens 2 --model_name_or_path toy/model",
    "open_instruct.finetune --train_file train.jsonl --learning_rate 1e-3 --max_train_steps 1 --output_dir out "
    "--model_name_or_path toy/model",
    "olmo_eval.run_lm_eval --tasks copa --limit 2 --metrics_file out.json --model_name_or_path toy/model",
]
FAILURES = ["connection", "weights", "server error", "cut file"]


class FailingHub(LoopbackHub):
    """Answers as on a bad day, until `failure` is None."""

    failure: str | None = None

    def respond(self, request):
        if self.failure == "server error":
            self.requests.append(request)
            return error(503, "", "try again later")
        if self.failure == "connection":
            return None
        response = super().respond(request)
        if self.failure == "cut file" and request.path.startswith("/lfs/") and request.method == "GET":
            assert response is not None
            response.body = response.body[:1000]
            response.headers["Content-Length"] = "1000"
        return response


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    toy_olmo(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub(tmp_path, monkeypatch, files):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.sleep", lambda _: None)
    Path("rte.jsonl").write_text(json.dumps(LINE) + "\n")
    Path("train.jsonl").write_text(json.dumps(LINE | {"dataset": "mine"}) + "\n")
    with FailingHub() as hub:
        hub.point_clients_here(monkeypatch, tmp_path / "cache")
        hub.add("model", "toy/model", files)
        yield hub


def exit_code(command: str, monkeypatch) -> int:
    script, *arguments = command.split()
    module = importlib.import_module(script)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    try:
        run(module.main, module.Args)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split()[0])
def test_a_hub_that_breaks_off_is_named_and_a_second_run_goes_on(command, failure, hub, monkeypatch, capsys, tmp_path):
    if failure == "weights":
        hub.go_down(after_bytes=30_000)
    else:
        hub.failure = failure
    assert exit_code(command, monkeypatch) == USER_ERROR
    printed = capsys.readouterr().err
    line = next(line for line in printed.splitlines() if line.startswith("error: "))
    assert "toy/model" in line
    assert "run the same command again" in line
    assert "Traceback" not in printed
    assert not list(tmp_path.glob("out*"))
    hub.come_up()
    hub.failure = None
    assert exit_code(command, monkeypatch) == 0
    assert list(tmp_path.glob("out*"))


def test_an_incomplete_cache_without_the_hub_is_named(hub, monkeypatch, capsys):
    hub.go_down(after_bytes=30_000)
    assert exit_code(COMMANDS[0], monkeypatch) == USER_ERROR
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    capsys.readouterr()
    assert exit_code(COMMANDS[0], monkeypatch) == USER_ERROR
    assert re.search("toy/model: .* broke off .*; run the same command again", capsys.readouterr().err)


@pytest.mark.parametrize("revision", ["main", "step1"])
def test_pickles_alone_are_named_as_such(revision, hub, files, monkeypatch, capsys):
    others = {name: data for name, data in files.items() if name != "model.safetensors"}
    hub.add("model", "toy/pickled", others | {"pytorch_model.bin": b"x"}, ref=revision)
    command = COMMANDS[0].replace("toy/model", f"toy/pickled --model_revision {revision}")
    assert exit_code(command, monkeypatch) == USER_ERROR
    assert "pickles are not downloaded" in capsys.readouterr().err
    assert not hub.requests_of(r"pytorch_model")
