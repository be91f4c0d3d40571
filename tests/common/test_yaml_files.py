"""YAML that would lose a value, never end, or make Python objects is refused by file and line."""

import pytest

from open_instruct.common.errors import UserError
from open_instruct.common.yaml_files import compose, load_yaml


@pytest.mark.parametrize("read", [compose, load_yaml])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: &x [1, *x]", "an alias inside of what it stands for"),
        (b"[" * 20_000, "nested too deeply"),
        (b"a: 1\nb: !!python/name:os.system x", r"a\.yaml:2: not YAML \(unknown tag .*python/name:os\.system"),
        (b"a: \x07", "not YAML"),
        ("a: café".encode("latin-1"), r"a\.yaml: not UTF-8"),
        ("a: 1".encode("utf-16"), r"a\.yaml: UTF-16, not UTF-8"),
    ],
    ids=["alias of itself", "deep", "Python", "control character", "latin-1", "utf-16"],
)
def test_what_is_no_plain_yaml_is_refused(tmp_path, read, content, message):
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: {c: 1,\n c: 2}", r"a\.yaml:3: not YAML \(c is repeated; the first is in line 2"),
        (f"a: {'9' * 5_000}", r"a\.yaml:1: not YAML \('9+': Exceeds the limit"),
        ("a: 2001-99-99", r"a\.yaml:1: not YAML"),
    ],
    ids=["repeated", "long number", "no date"],
)
def test_values_that_would_be_lost_or_are_none_are_refused(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_yaml(tmp_path / "a.yaml")


def test_a_byte_order_mark_and_aliases_are_read(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: &x {b: 1}\nc: *x\n")
    assert load_yaml(tmp_path / "a.yaml") == {"a": {"b": 1}, "c": {"b": 1}}
