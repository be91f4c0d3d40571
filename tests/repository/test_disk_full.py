"""A disk that fills up, at whatever file: one sentence, nothing that counts as done, and the same command goes on."""

import subprocess
from pathlib import Path

import pytest
from fuzz_targets import targets
from fuzzing import files_of, run_script


@pytest.fixture
def disk(tmp_path):
    """A folder, and a function that gives it a size in kilobytes."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def resize(kilobytes: int, *options: str) -> int:
        flags = ",".join([*options, f"size={kilobytes}k"])
        return subprocess.run(["mount", "-t", "tmpfs", "-o", flags, "tmpfs", folder], capture_output=True).returncode

    if resize(64_000):
        pytest.skip("no tmpfs can be mounted here; tests/common/test_cli.py has the errors of a full disk")
    yield folder, lambda kilobytes: resize(kilobytes, "remount")
    subprocess.run(["umount", "--lazy", folder], check=True)


def used_kilobytes(folder: Path) -> int:
    return 4 * sum(-(-path.stat().st_size // 4096) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", ["train file", "generation", "own rows", "released tables"])
@pytest.mark.parametrize("more", [0, 8, 24, 120, 400])
def test_a_full_disk_ends_in_one_sentence_and_the_same_command_goes_on(name, more, toy_model, disk):
    home, resize = disk
    target = next(one for one in targets(toy_model) if one.name == name)
    (home / "base").mkdir()
    target.others(home)
    (home / target.file).parent.mkdir(exist_ok=True)
    (home / target.file).write_bytes(target.content)
    command = target.command + (" --checkpointing_steps 1 --num_train_epochs 2" if name == "train file" else "")
    command = command.replace("--max_train_steps 1", "--total_batch_size 1")
    assert resize(used_kilobytes(home) + more) == 0
    code, _, errors = run_script(command, home)
    if code != 0:  # the larger sizes are enough for the smaller outputs
        assert code == 2
        [line] = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert "make room, then run the same command again" in line
        assert not [file for file in files_of(home) if file.endswith(".tmp")]
        assert resize(64_000) == 0
        assert run_script(command, home)[0] == 0
    assert target.result(home, "") == target.expected(target.content)
