"""Exit of scripts: a user error is one line on stderr and exit code 2, any other error a traceback. Their --help."""

import errno
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from open_instruct.common.cli import option, run
from open_instruct.common.json_files import write_json


@dataclass(frozen=True)
class Args:
    pass


def stderr_of(main, monkeypatch, capsys) -> str:
    """Output to stderr of a `main` that exits with code 2."""
    monkeypatch.setattr(sys, "argv", ["script.py"])
    with pytest.raises(SystemExit) as ended:
        run(main, Args)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_a_file_where_a_folder_should_be_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "output").write_text("")
    printed = stderr_of(lambda _: write_json(tmp_path / "output" / "a" / "b.json", {}), monkeypatch, capsys)
    assert printed.startswith(f"error: {tmp_path}/output/a: Not a directory; a file stands where a folder should")


@pytest.mark.parametrize(
    ("number", "fix"),
    [(errno.EACCES, "set base_dir and data_dir to folders you may write in"), (errno.ENOSPC, "make room, then run")],
)
def test_a_denied_write_is_reported_with_its_fix(number, fix, monkeypatch, capsys):
    def main(_):
        raise OSError(number, "No", "/x/y")

    assert stderr_of(main, monkeypatch, capsys).startswith(f"error: /x/y: No; {fix}")


def of_a_library() -> ValueError:
    """An error that a library raises in place of the one of the operating system."""
    error = ValueError("could not save")
    error.__context__ = OSError(errno.ENOSPC, "No space")
    return error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
        FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
        OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"),
        of_a_library(),
    ],
    ids=["safetensors", "torch.save", "tempfile", "without a number", "in place of another"],
)
def test_a_full_disk_is_reported_where_a_library_raises_an_error_of_its_own(error, monkeypatch, capsys):
    def main(_):
        raise error

    assert stderr_of(main, monkeypatch, capsys) == (
        "error: a file could not be written to its end; make room, then run the same command again\n"
    )


def test_other_os_errors_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script.py"])

    def main(_):
        raise OSError(errno.EIO, "Input/output error", "/x/y")

    with pytest.raises(OSError, match="Input/output error"):
        run(main, Args)


def test_progress_bars_of_libraries_stay_out_of_logs():
    code = "from open_instruct.common.cli import option, run; from dataclasses import dataclass\n"
    code += "def main(_): from tqdm import tqdm; print(sum(tqdm([1, 2])))\n"
    code += "run(main, dataclass(type('Args', (), {})))"
    environment = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert (done.stdout, done.stderr) == ("3\n", "")


@dataclass(frozen=True)
class Documented:
    folder: Path | None = None
    """Where to look (default: here)."""
    names: tuple[str, ...] = ()
    """What to look for (default: everything)."""
    model: str | None = option("model_path", default=None)
    """Its model."""
    limit: int = 3
    """The most."""


def test_help_keeps_line_breaks_and_shows_no_default_twice(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["script.py", "--help"])
    monkeypatch.setattr(
        sys.modules["__main__"], "__doc__", "Find.\n\nReads    a\nWrites   into b:\n         c\nThen d.\n"
    )
    with pytest.raises(SystemExit):
        run(print, Documented)
    printed = capsys.readouterr().out
    lines = [line.rstrip() for line in printed.splitlines()]
    wanted = ["Find.", "Reads    a", "Writes   into b:", "         c", "Then d."]
    assert [line for line in lines if line in wanted] == wanted
    assert "None)" not in printed
    assert "(default: )" not in printed
    assert "(default: 3)" in printed
    assert "--model_path" in printed


@pytest.mark.parametrize("num_lines", [1, 100_000])
def test_output_whose_reader_has_ended_is_no_traceback(num_lines):
    """`| head` ends before the script does."""
    code = (
        "from dataclasses import dataclass\nfrom open_instruct.common.cli import run\n@dataclass\nclass Args: pass\n"
        f"run(lambda args: print('line\\n' * {num_lines}), Args)"
    )
    script = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert script.stdout is not None
    assert script.stderr is not None
    script.stdout.close()
    assert script.stderr.read() == ""
    assert script.wait() == 1
    script.stderr.close()
