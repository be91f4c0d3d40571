"""Files that people really have: encodings, cut gzip files, wrong types are refused with file:line, or read right."""

import gzip
import json

import pytest

from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_jsonl, write_jsonl
from open_instruct.data.train_records import read_train_records, require_train_file

PAIR = {"id": "0", "prompt": "The cat", "completion": " sat"}
LINES = "".join(json.dumps(PAIR | {"id": str(i)}) + "\n" for i in range(500)).encode()
ZIPPED = gzip.compress(LINES, mtime=0)


@pytest.mark.parametrize(
    "content",
    [
        LINES.replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + LINES,
        LINES.rstrip(b"\n"),
    ],
    ids=["crlf", "byte order mark", "no final newline"],
)
def test_harmless_variants_of_json_lines_are_read(tmp_path, content):
    (tmp_path / "a.jsonl").write_bytes(content)
    assert [record["id"] for record in read_jsonl(tmp_path / "a.jsonl")] == [str(i) for i in range(500)]


def test_line_separators_of_unicode_do_not_end_a_line(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(PAIR | {"completion": " a\u2028b\x85c"}, ensure_ascii=False) + "\n")
    assert read_train_records(tmp_path / "a.jsonl")[0]["completion"] == " a\u2028b\x85c"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", LINES.decode().encode("utf-16"), r"a\.jsonl:1: UTF-16, not UTF-8; save the file as UTF-8"),
        ("a.jsonl", LINES.decode().encode("utf-16-be"), r"a\.jsonl:1: UTF-16-BE, not UTF-8"),
        ("a.jsonl", LINES.decode().encode("utf-32"), r"a\.jsonl:1: UTF-32, not UTF-8"),
        ("a.jsonl", b"{}\n" + '{"id": "café"}\n'.encode("latin-1"), r"a\.jsonl:2: not UTF-8"),
        ("a.jsonl", LINES + b'{"id": "0", "a": {"b": 1, "b": 2}}\n', r"a\.jsonl:501: key b for the second time"),
        ("a.jsonl", LINES + b'{"id": "\\ud83d"}\n', r"a\.jsonl:501: id: text that is not valid Unicode"),
        ("a.jsonl", LINES + b'{"id": "0", "a": ["\\ud83d"]}\n', r"a\.jsonl:501: a: text that is not valid Unicode"),
        ("a.jsonl", LINES + b"[1]\n", r"a\.jsonl:501: expected a JSON object; found list"),
        ("a.jsonl", LINES + b"\n", r"a\.jsonl:501: expected one JSON object a line"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl:1: expected one JSON object a line"),
        ("a.jsonl", b'{"id": ' + b"9" * 5_000 + b"}", r"a\.jsonl:1: expected one JSON object a line"),
        ("a.jsonl.gz", ZIPPED[: len(ZIPPED) // 2], r"a\.jsonl\.gz:\d+: not readable as gzip"),
        ("a.jsonl.gz", ZIPPED[:40] + b"\0\1\2" + ZIPPED[43:], r"a\.jsonl\.gz:\d+: not readable as gzip"),
        ("a.jsonl.gz", ZIPPED[:-6] + b"\0" * 6, r"a\.jsonl\.gz:501: not readable as gzip"),
        ("a.jsonl.gz", LINES, r"a\.jsonl\.gz:1: not readable as gzip"),
    ],
    # Short ones: with the contents in them, processes that collect the tests would have to make equal bytes.
    ids=[
        "utf-16",
        "utf-16 without a mark",
        "utf-32",
        "latin-1",
        "a key twice",
        "half a character in an id",
        "half a character in a list",
        "a list",
        "an empty line",
        "deep",
        "a long number",
        "half a gzip file",
        "a damaged gzip file",
        "a gzip file without its checksum",
        "no gzip file",
    ],
)
def test_damaged_json_lines_are_refused_by_file_and_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_jsonl(tmp_path / name))


def test_a_folder_is_no_json_lines_file(tmp_path):
    with pytest.raises(UserError, match="a folder; expected a JSON lines file"):
        list(read_jsonl(tmp_path))


def turn(role="user", content="q"):
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"completion": 4}, r":2: completion: expected text, found '4' \(int\)"),
        ({"completion": None}, r":2: completion: expected text"),
        ({"completion": "  "}, r":2: the completion is empty"),
        ({"prompt": ["q"]}, r":2: prompt: expected text, found \"\['q'\]\" \(list\)"),
        ({"prompt": "\ud83d"}, r":2: prompt: text that is not valid Unicode"),
        ({"id": ["a"]}, r":2: id \['a'\]; expected text or a number"),
        ({"messages": None}, r":2: messages 'None'; expected a list"),
        ({"messages": ["q"]}, r":2: messages .*expected a list"),
        ({"messages": [{"from": "human", "value": "q"}]}, r":2: a message without role; found from, value"),
        ({"messages": [turn(content=None)]}, r":2: content of a message: expected text"),
        ({"messages": [turn(content=[{"type": "text"}])]}, r":2: content of a message: expected text"),
        (
            {"messages": [turn("User"), turn("Assistant")]},
            r":2: role 'User' of a message; expected system, user, assist",
        ),
        ({"messages": [turn("user"), turn("tool")]}, r":2: no text of the role assistant.*roles user, tool"),
        ({"messages": []}, r":2: no text of the role assistant.*roles none"),
    ],
    ids=str,
)
def test_malformed_train_records_are_refused_by_file_and_line(tmp_path, record, message):
    content = json.dumps(PAIR) + "\n" + json.dumps(PAIR | {"id": "1"} | record) + "\n"
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(UserError, match=message):
        read_train_records(tmp_path / "a.jsonl")


def test_keys_of_other_projects_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": "0", "instruction": "q", "output": "a"}\n')
    with pytest.raises(UserError, match=r"a\.jsonl:1: expected prompt and completion, or messages; found id, instr"):
        read_train_records(tmp_path / "a.jsonl")


def test_folders_and_evaluation_files_are_no_train_files(tmp_path):
    with pytest.raises(UserError, match="a folder; expected a train file"):
        require_train_file(tmp_path)
    with Artifact(paths.evaluation_file("rte"), {}, identity={"eval_set": "rte"}).making():
        write_jsonl(paths.evaluation_file("rte"), [PAIR])
    with pytest.raises(UserError, match="an evaluation file; a model that is trained on it cannot be evaluated on rte"):
        require_train_file(paths.evaluation_file("rte"))
