"""Run a script on a mutated file, as its command line does, and judge what came of it.

There are two right outcomes: exit code 0 with what another reader of the file expects, or exit code 2 with an error,
every line of it short, and nothing written.
"""

import contextlib
import importlib
import io
import logging
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from mutations import MUTATORS, mutations

from open_instruct.common.cli import LONGEST_LINE, run

CACHES = {"hashes", "encoded", "locks"}
"""Folders whose files are of use to later runs, whatever came of this one."""


@dataclass(frozen=True)
class Target:
    """A file that a script reads."""

    name: str
    file: str
    """Its place in the home of a run; its ending chooses the mutations."""
    content: bytes
    """Of the file where nothing is wrong with it."""
    command: str
    """Module and arguments; {home} is the folder of the run, which is the current one."""
    result: Callable[[Path, str], Any]
    """What came of a run, from its home and what it printed."""
    expected: Callable[[bytes], Any]
    """The same, by another reader of the file."""
    others: Callable[[Path], None] = lambda home: None
    """Write the other files that the command needs."""


def failures(target: Target, folder: Path, *, seed: int, count: int) -> list[str]:
    """Of `count` mutations, those with a wrong outcome; and the file without a mutation, if its outcome is wrong."""
    found = []
    code, problem, errors = outcome(target, target.content, folder / "plain")
    if code or problem:
        found.append(f"{target.name}, not mutated: exit code {code}, {problem}, {errors}")
    for number, mutation in enumerate(
        mutations(target.content, MUTATORS[Path(target.file).suffix], seed=seed, count=count)
    ):
        _, problem, _ = outcome(target, mutation.content, folder / str(number))
        if problem:
            found.append(f"{target.name}, {number}, {mutation.name}: {problem}")
    return found


def outcome(target: Target, content: bytes, home: Path) -> tuple[int, str | None, str]:
    """Exit code; what is wrong with the outcome or None; stderr.  Removes `home` where all is right."""
    (home / "base").mkdir(parents=True)
    file = home / target.file
    target.others(home)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    before = files_of(home)
    code, printed, errors = run_script(target.command, home)
    if code == 0:
        problem = wrong_result(target, content, home, printed)
    elif code == 2:
        problem = wrong_refusal(errors, new=files_of(home) - before)
    else:
        problem = f"exit code {code}: {errors[-1_500:]}"
    if problem is None:
        shutil.rmtree(home)
    return code, problem, errors


def run_script(command: str, home: Path) -> tuple[int, str, str]:
    """-> exit code (1 after a traceback), stdout, stderr"""
    name, *arguments = command.format(home=home).split()
    module = importlib.import_module(name)
    out, err = io.StringIO(), io.StringIO()
    environment = {"base_dir": str(home / "base"), "data_dir": str(home / "data"), "HF_HUB_OFFLINE": "1"}
    logging.disable(logging.WARNING)
    with (
        mock.patch.dict("os.environ", environment),
        mock.patch.object(sys, "argv", [name.rpartition(".")[2], *arguments]),
        in_folder(home),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            run(module.main, module.Args)
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:
            code = 1
            traceback.print_exc()
    logging.disable(logging.NOTSET)
    return code, out.getvalue(), err.getvalue()


@contextlib.contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def files_of(home: Path) -> set[str]:
    found = [path.relative_to(home) for path in home.rglob("*") if path.is_file()]
    return {str(path) for path in found if not CACHES & set(path.parts)}


def wrong_result(target: Target, content: bytes, home: Path, printed: str) -> str | None:
    if left := [name for name in files_of(home) if name.endswith((".tmp", ".partial")) or ".unfinished" in name]:
        return f"left {left}"
    found = target.result(home, printed)
    try:
        expected = target.expected(content)
    except Exception as error:  # the file is not of its kind, and was accepted
        return f"exit code 0, where another reader of the file says {type(error).__name__}: {str(error)[:200]}"
    return None if found == expected else f"found {str(found)[:500]}, expected {str(expected)[:500]}"


def wrong_refusal(errors: str, *, new: set[str]) -> str | None:
    if new:
        return f"refused, and wrote {sorted(new)}"
    _, is_error, text = errors.rpartition("error: ") if errors.startswith("error: ") else errors.partition("\nerror: ")
    lines = text.strip("\n").split("\n")
    if not is_error or not lines[0] or "Traceback" in errors:
        return f"no error in one sentence: {errors[-500:]!r}"
    if too_long := [line for line in lines if len(line) > LONGEST_LINE]:
        return f"an error of {len(too_long[0])} characters: {too_long[0][:300]!r}"
    return None
