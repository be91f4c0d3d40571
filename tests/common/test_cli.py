"""How scripts end: what the user has to mend is one line on stderr and exit code 2, a fault of ours a traceback."""

import errno
import sys
from dataclasses import dataclass

import pytest

from open_instruct.common.cli import run
from open_instruct.common.json_files import write_json


@dataclass(frozen=True)
class Args:
    pass


def end_of(main, monkeypatch, capsys) -> str:
    """What is printed to stderr by a `main` that ends with exit code 2."""
    monkeypatch.setattr(sys, "argv", ["script.py"])
    with pytest.raises(SystemExit) as ended:
        run(main, Args)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_a_file_where_a_folder_should_be_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "output").write_text("")
    printed = end_of(lambda _: write_json(tmp_path / "output" / "a" / "b.json", {}), monkeypatch, capsys)
    assert printed.startswith(f"error: {tmp_path}/output/a: Not a directory; a file stands where a folder should")


@pytest.mark.parametrize(
    ("number", "cure"),
    [(errno.EACCES, "set base_dir and data_dir to folders you may write in"), (errno.ENOSPC, "make room, then run")],
)
def test_what_the_system_refuses_is_said_with_its_cure(number, cure, monkeypatch, capsys):
    def main(_):
        raise OSError(number, "No", "/x/y")

    assert end_of(main, monkeypatch, capsys).startswith(f"error: /x/y: No; {cure}")


def test_other_failures_of_the_system_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script.py"])

    def main(_):
        raise OSError(errno.EIO, "Input/output error", "/x/y")

    with pytest.raises(OSError, match="Input/output error"):
        run(main, Args)
