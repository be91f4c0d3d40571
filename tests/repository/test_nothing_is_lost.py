"""A user's files in and around the output of every script survive all that the script does, byte for byte."""

import random

import pytest
from foreign_files import exit_code_and_message, hidden_files, planted, remove
from killing import start_and_kill
from native_downloads import run_download, skip_waiting, store_of
from writing_commands import COMMANDS

from open_instruct.common import paths
from open_instruct.common.errors import USER_ERROR, UserError
from open_instruct.common.sidecars import has_sidecar

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", COMMANDS)
def test_foreign_files_survive_and_those_in_the_way_are_named(name, base_dir):
    command = COMMANDS[name](base_dir)
    nobodys = [file for output in command.outputs for file in output.unneeded()]
    with planted(*nobodys):
        for output in command.outputs:
            for file in output.needed():
                for args in command.all_args:
                    with planted(file):
                        code, message = exit_code_and_message(command.main, args)
                        assert code == USER_ERROR, file
                        assert file.name in message or file.parent.name in message, message
                for made in command.outputs:  # by the part of the command that was not in the way
                    remove(made.path)
        assert exit_code_and_message(command.main, command.args) == (0, "")
        assert all(has_sidecar(output.path) for output in command.outputs)
        for output in command.outputs:
            for file in output.needed_again():
                with planted(file):
                    assert exit_code_and_message(command.main, command.args)[0] in (0, USER_ERROR)
                    code, message = exit_code_and_message(command.main, command.overwriting)
                    assert code == USER_ERROR, file
                    assert file.name in message or file.parent.name in message, message
        assert exit_code_and_message(command.main, command.overwriting) == (0, "")
    assert hidden_files(base_dir / "output") == set()


KILLED = ("finetune", "merge_lora", "convert", "format", "predict", "run_lm_eval in one file", "produce_tables")


@pytest.mark.parametrize("name", KILLED)
def test_foreign_files_survive_runs_that_are_killed_and_run_again(name, base_dir):
    command, rng = COMMANDS[name](base_dir), random.Random(0)
    nobodys = [file for output in command.outputs for file in output.unneeded()]
    with planted(*nobodys):
        for _ in range(6):
            start_and_kill(command.main, command.args, rng.uniform(0, 1.5))
            for output in command.outputs:
                if not output.path.exists():
                    with planted(output.path, content="put there after the kill"):
                        assert exit_code_and_message(command.main, command.args)[0] == USER_ERROR, output
        for _ in range(6):
            start_and_kill(command.main, command.overwriting, rng.uniform(0, 1.5))
        assert exit_code_and_message(command.main, command.overwriting) == (0, "")
    assert all(has_sidecar(output.path) for output in command.outputs)
    assert hidden_files(base_dir / "output") == set()


def test_downloads_replace_no_foreign_file(base_dir, monkeypatch):
    skip_waiting(monkeypatch)
    folder = paths.native_checkpoint("olmo1b", "checkpoint-1000")
    places = [folder / "model.pt", folder, folder.with_name(f".partial-{folder.name}") / "model.pt"]
    script = base_dir / "output" / "olmo1b_wget.sh"
    with store_of(1000) as store:
        for place in places:
            for overwrite in (False, True):
                with planted(place), pytest.raises(UserError, match=r"checkpoint-1000.* not written by this project"):
                    run_download(base_dir, store, 1000, overwrite=overwrite)
        with planted(script), pytest.raises(UserError, match=script.name):
            run_download(base_dir, store, 1000, get_wget_list=True)
        run_download(base_dir, store, 1000)
        with planted(folder / "thesis.txt"), pytest.raises(UserError, match=r"thesis\.txt"):
            run_download(base_dir, store, 1000, overwrite=True)
        run_download(base_dir, store, 1000, overwrite=True)
    assert hidden_files(base_dir / "output") == set()
