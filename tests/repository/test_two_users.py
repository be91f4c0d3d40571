"""Outputs have the modes that the umask gives, and two users share a folder as far as those let them."""

import ctypes
import json
import os
import shutil
import stat
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from foreign_files import exit_code_and_message
from toy_evaluation import RTE, write_evaluation
from toy_training import toy_training

from eval import predict
from open_instruct import finetune, merge_lora
from open_instruct.common.errors import USER_ERROR

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as two users"),
]
FIRST, GROUP = 65534, 65534


@pytest.fixture
def shared(monkeypatch):
    """A $base_dir that a second user can reach, whose files belong to GROUP."""
    folder = Path(tempfile.mkdtemp(prefix="shared-", dir="/tmp"))
    os.chown(folder, FIRST, GROUP)
    folder.chmod(0o2775)
    monkeypatch.setenv("base_dir", str(folder))
    yield folder
    shutil.rmtree(folder)


def in_child(umask: int, *calls, groups: tuple[int, ...] | None = None) -> list[tuple[int, str]]:
    """Exit code and message of each (main, args) in a process with this umask.

    groups: of a user without root's right to ignore permissions; None: root.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.umask(umask)
            if groups is not None:
                os.setgroups(groups)
                drop_capabilities()
            os.write(writing, json.dumps([exit_code_and_message(*call) for call in calls]).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return [(code, message) for code, message in json.loads(text)]


def drop_capabilities() -> None:
    version_3 = (ctypes.c_uint32 * 2)(0x20080522, 0)
    nothing = (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None, use_errno=True).capset(version_3, nothing) == 0


def give_to_first(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, FIRST, -1)


def commands(base: Path):
    """Fine-tuning of a whole model, of an adapter and its merging; predictions with the first."""
    tuned, adapter = base / "output" / "tuned", base / "output" / "adapter"
    train = replace(toy_training(), max_train_steps=2, checkpointing_steps="1")
    write_evaluation(base / "rte.jsonl", RTE)
    return (
        (finetune.main, replace(train, output_dir=tuned)),
        (finetune.main, replace(train, output_dir=adapter, use_lora=True, keep_weights="lora")),
        (merge_lora.main, merge_lora.Args(str(adapter), base / "output" / "merged")),
        (predict.main, predict.Args(str(tuned), (base / "rte.jsonl",))),
    )


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_all_that_is_written_follows_the_umask(shared, umask):
    calls = commands(shared)
    before = set(shared.rglob("*"))
    assert in_child(umask, *calls) == [(0, "")] * len(calls)
    made = [path for path in shared.rglob("*") if path not in before]
    assert len(made) > 20
    for path in made:
        # New folders inherit the setgid bit, and with it the group.
        wanted = 0o2777 & ~umask if path.is_dir() else 0o666 & ~umask
        assert oct(stat.S_IMODE(path.stat().st_mode)) == oct(wanted), path
        assert path.stat().st_gid == GROUP, path


def test_a_group_shares_outputs_and_caches_where_the_umask_lets_it(shared):
    old = os.umask(0o002)
    try:
        calls = commands(shared)
    finally:
        os.umask(old)
    assert in_child(0o002, *calls) == [(0, "")] * len(calls)
    give_to_first(shared)
    before = sorted(shared.rglob("*"))
    assert in_child(0o002, *calls, groups=(GROUP,)) == [(0, "")] * len(calls)
    assert sorted(shared.rglob("*")) == before, "all was done"
    main, args = calls[0]
    again = [(main, replace(args, output_dir=shared / "output" / "another"))]
    again += [(main, replace(args, overwrite=True)) for main, args in calls]
    assert in_child(0o002, *again, groups=(GROUP,)) == [(0, "")] * len(again)
    assert (shared / "output" / "tuned").stat().st_uid == 0, "replaced by the second user"


def test_who_may_read_only_gets_done_outputs_and_else_one_sentence(shared):
    calls = commands(shared)
    assert in_child(0o022, *calls) == [(0, "")] * len(calls)
    give_to_first(shared)
    assert in_child(0o022, *calls, groups=()) == [(0, "")] * len(calls)
    main, args = calls[0]
    refused = [(main, replace(args, overwrite=True)) for main, args in calls]
    refused += [(main, replace(args, output_dir=shared / "output" / "another"))]
    for code, message in in_child(0o022, *refused, groups=()):
        assert code == USER_ERROR
        assert "Permission denied" in message
        assert "\n" not in message
