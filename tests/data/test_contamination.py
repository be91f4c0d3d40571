"""Items in a user's text: exactly those planted are found, near misses are not, and what cannot be read is named."""

import gzip
import json
import os
import re
import signal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from planted_text import INSTRUCTION, KINDS, differences, make_planted_text

from open_instruct import check_contamination
from open_instruct.check_contamination import Args
from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_jsonl, write_jsonl
from open_instruct.common.sidecars import read_sidecar
from open_instruct.data import ngrams, text_files, text_scan

CONTEXT = "One morning the old gardener of the castle found a small brass key under the roots of a pear tree"
PROMPT = f"### Input: {CONTEXT}\n ### Answer: Answer A: sad Answer B: glad Answer C: mad\n ### Question:"
ITEM = {"dataset": "socialiqa", "id": "socialiqa-0", "prompt": PROMPT, "completion": " How did he feel?"}


@pytest.fixture
def text(base_dir):
    folder = base_dir / "text"
    folder.mkdir()
    return folder


def check(text_dir, *files, num_workers=1, **options):
    check_contamination.main(Args(files or (item_file(ITEM),), text_dir, num_workers=num_workers, **options))


def item_file(*records):
    path = paths.data_dir() / "evaluation" / "mine.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(path, records)
    return path


def results(name="evaluation_mine"):
    return list(read_jsonl(result_file(name)))


def result_file(name="evaluation_mine"):
    return paths.base_dir() / "output" / "checks" / f"contamination_{name}.jsonl"


def write_lines(path, *texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


@pytest.mark.slow
def test_exactly_the_planted_items_are_found(base_dir, monkeypatch):
    monkeypatch.setattr(text_scan, "PIECE", 6_000)
    monkeypatch.setattr(text_scan, "BATCH_BYTES", 20_000)
    num_items = 3 * len(KINDS) * 2
    made = make_planted_text(base_dir, num_items=num_items, text_bytes=400_000, num_files=8)
    check(made.text_dir, *made.items, num_workers=2)
    evaluated, trained = (results(name) for name in ("evaluation_socialiqa", "chats"))
    assert differences(made.items[made.evaluation_file], evaluated) == []
    assert differences(made.items[made.train_file], trained) == []
    assert read_sidecar(result_file("chats"))["scan"]["num_documents"] == made.num_documents
    # The instruction is in the text, and in every chat.
    assert {record["prompt"]["left_out"] for record in trained} == {len(INSTRUCTION.split()) - 12}


def test_the_words_of_a_declared_template_do_not_count(text, base_dir):
    write_lines(text / "a.jsonl", "Nothing.", f"It is said: {CONTEXT}.")
    undeclared = base_dir / "mine.jsonl"
    write_jsonl(undeclared, [ITEM | {"dataset": "mine"}])
    check(text, item_file(ITEM), undeclared)
    place = {"file": "a.jsonl", "row": 2}
    (declared,), (whole,) = results(), results("mine")
    counts = {"status": "checked", "words": 23, "ngrams": 8, "left_out": 0, "found": 8, "share": 1.0, "first": place}
    assert declared["prompt"] == counts
    assert declared["completion"]["status"] == "too short"
    assert declared["completion"]["share"] is None
    assert whole["prompt"] == counts | {"words": 32, "ngrams": 20, "share": 8 / 20}


def test_ngrams_of_many_items_are_left_out_and_counted(text):
    write_lines(text / "a.jsonl", INSTRUCTION)
    names = [f"name{number}" for number in range(11)]
    record = {"dataset": "mine", "completion": "ok"}
    items = [record | {"id": name, "prompt": f"{name}! {INSTRUCTION}"} for name in names]
    check(text, item_file(*items))
    prompts = [one["prompt"] for one in results()]
    assert {(p["ngrams"], p["left_out"], p["found"]) for p in prompts} == {(1, 8, 0)}
    check(text, item_file(*items[:10]), overwrite=True)  # of ten items no n-gram is shared by many
    prompts = [one["prompt"] for one in results()]
    assert {(p["ngrams"], p["left_out"], p["found"]) for p in prompts} == {(9, 0, 8)}


def test_the_table_counts_what_is_too_short_and_what_is_over_the_threshold(text, capsys):
    write_lines(text / "a.jsonl", CONTEXT, "Of ten words and more only the first eight words")
    short = ITEM | {"id": "1", "prompt": "Of ten words and more only the first eight words", "completion": "x"}
    check(text, item_file(ITEM, short), min_share=1)
    header, prompt, completion = (re.split(r" {2,}", line) for line in capsys.readouterr().out.splitlines()[:3])
    assert dict(zip(header, prompt, strict=True)) == {
        "set": "evaluation_mine",
        "part": "prompt",
        "items": "2",
        "checked": "2",
        "too short": "0",
        "shared n-grams only": "0",
        "no words": "0",
        "any overlap": "2",
        "share >= 1": "2",
        "shared n-grams left out": "0",
    }
    assert completion[3:5] == ["0", "2"]


def test_equal_hashes_of_other_words_are_no_match(text, monkeypatch):
    monkeypatch.setattr(ngrams, "mix", lambda values: values * 0)
    write_lines(text / "a.jsonl", "Thirteen other words that have nothing in common with it at all really")
    check(text)
    assert results()[0]["prompt"]["found"] == 0
    write_lines(text / "a.jsonl", CONTEXT)
    check(text)
    assert results()[0]["prompt"]["found"] > 0


def test_a_result_is_made_again_only_where_text_or_items_changed(text, monkeypatch):
    write_lines(text / "a.jsonl", "Nothing.")
    check(text)
    with monkeypatch.context() as patch:
        patch.setattr(check_contamination, "scan_files", None)
        check(text, min_share=0.5)
    write_lines(text / "b.jsonl", CONTEXT)
    check(text)
    assert results()[0]["prompt"]["first"] == {"file": "b.jsonl", "row": 1}
    check(text, item_file(ITEM | {"id": "other"}))
    assert results()[0]["id"] == "other"
    with pytest.raises(UserError, match=r"ngram was 13, now 8; add --overwrite"):
        check(text, ngram=8)


BAD_LINES = {
    '{"text": "cut': r"bad\.jsonl:2: expected one JSON object a line, found '\{\"text\": \"cut",
    '{"body": "x"}': r"bad\.jsonl:2: no field text; found body: name yours with --text_field",
    '{"text": ["x"]}': r"bad\.jsonl:2: text: expected text, found \"\['x'\]\" \(list\)",
    '{"text": null}': r"bad\.jsonl:2: text: expected text, found 'None'",
    r'{"text": "\ud800"}': r"bad\.jsonl:2: text: text that is not valid Unicode",
    json.dumps({"text": "x" * 1_000}): r"bad\.jsonl:2: a line of more than 900 bytes",
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_bad_lines_are_named_and_left_out_only_on_request(text, line, monkeypatch, capsys):
    monkeypatch.setattr(text_files, "LONGEST_LINE", 900)
    monkeypatch.setattr(text_files, "BUFFER_BYTES", 100)
    good = json.dumps({"text": CONTEXT})
    (text / "bad.jsonl").write_text(f"{good}\n{line}\n\n{good}\n")
    with pytest.raises(UserError, match=rf"{BAD_LINES[line]}.*; --skip_bad_rows leaves such rows out"):
        check(text)
    assert not result_file().exists()
    check(text, skip_bad_rows=True)
    scan = read_sidecar(result_file())["scan"]
    assert (scan["num_bad_rows"], scan["num_documents"]) == (1, 2)
    assert re.search(rf"without 1 rows, such as .*{BAD_LINES[line]}", capsys.readouterr().out)


def test_a_missing_and_an_undecodable_value_of_parquet_are_named_by_row(text):
    not_utf8 = pa.array([CONTEXT.encode(), b"\xff", None]).cast(pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": not_utf8}), text / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet, row 2: text: 'utf-8' codec can't decode"):
        check(text)
    check(text, skip_bad_rows=True)
    assert [line.split(": ", 1)[1] for line in read_sidecar(result_file())["scan"]["bad_rows"]][1] == (
        "text: no value, expected text"
    )
    assert results()[0]["prompt"]["found"] == 8


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("body", r"a\.parquet: no column text; found body: name yours with --text_field"),
        ("text", r"a\.parquet: column text is of type int64; expected text"),
    ],
)
def test_a_parquet_file_without_text_is_refused(text, column, message):
    pq.write_table(pa.table({column: [1, 2]}), text / "a.parquet")
    with pytest.raises(UserError, match=message):
        check(text, skip_bad_rows=True)


def test_text_in_columns_of_other_types_and_names_is_read(text):
    for number, kind in enumerate((pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view())):
        pq.write_table(pa.table({"body": pa.array(["x", CONTEXT]).cast(kind)}), text / f"{number}.parquet")
    for name in os.listdir(text):
        check(text, text_files=name, text_field="body", overwrite=True)
        assert results()[0]["prompt"]["first"] == {"file": name, "row": 2}


def damaged(name, content):
    if name.endswith(".parquet"):
        pq.write_table(pa.table({"text": [content.decode()] * 100}), name)
        return
    packed = {".gz": gzip.compress, ".zst": lambda lines: pa.compress(lines, "zstd", asbytes=True)}
    with open(name, "wb") as file:
        file.write(packed[os.path.splitext(name)[1]](content))


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.gz", "a.json.zst"])
def test_a_cut_file_is_named(text, name):
    damaged(str(text / name), json.dumps({"text": CONTEXT}).encode())
    content = (text / name).read_bytes()
    (text / name).write_bytes(content[:-9])
    with pytest.raises(UserError, match=rf"{re.escape(name)}: not readable.*; is it complete\? Get it again"):
        check(text, skip_bad_rows=True)


def test_files_of_other_formats_are_refused_by_name_unless_a_pattern_leaves_them_out(text):
    write_lines(text / "a.jsonl", CONTEXT)
    (text / "inner").mkdir()
    (text / "inner" / "b.jsonl.bz2").touch()
    (text / ".hidden").touch()
    with pytest.raises(UserError, match=r"inner/b\.jsonl\.bz2 cannot be read; expected .*--text_files"):
        check(text)
    check(text, text_files="**/*.jsonl")
    assert results()[0]["prompt"]["found"] == 8
    with pytest.raises(UserError, match=r"no file matches \*\.parquet"):
        check(text, text_files="*.parquet")


def test_two_files_of_one_name_are_refused(text, base_dir):
    write_lines(text / "a.jsonl", CONTEXT)
    other = base_dir / "other" / "evaluation"
    other.mkdir(parents=True)
    write_jsonl(other / "mine.jsonl", [ITEM])
    with pytest.raises(UserError, match=r"two input files have the result contamination_evaluation_mine\.jsonl"):
        check(text, item_file(ITEM), other / "mine.jsonl")


def test_an_error_in_one_process_stops_all_and_a_killed_one_is_told(text, monkeypatch):
    for number in range(4):
        write_lines(text / f"{number}.jsonl", CONTEXT)
    (text / "9.jsonl").write_text("{")
    with pytest.raises(UserError, match=r"9\.jsonl:1: expected one JSON object"):
        check(text, num_workers=2)
    monkeypatch.setattr(text_scan, "scan_file", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(UserError, match="a process was killed, as happens out of memory; use fewer --num_workers"):
        check(text, num_workers=2)


def test_text_that_would_be_missed_is_refused(text, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (text / "part").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"part is a link to a folder"):
        check(text, item_file(ITEM))
    (text / "part").unlink()
    with pytest.raises(UserError, match=r"expected a pattern below"):
        check(text, item_file(ITEM), text_files="/abs/*.jsonl")
    for path in text.iterdir():
        path.unlink()
    (text / "empty.jsonl").write_text("\n\n")
    with pytest.raises(UserError, match=r"no document in 1 file"):
        check(text, item_file(ITEM))


def test_fields_that_many_items_share_are_not_taken_for_a_template(text):
    """Of a set whose template is known, as of questions on one text, all of which is in the text."""
    items = [ITEM | {"id": f"socialiqa-{number}"} for number in range(30)]
    write_lines(text / "a.jsonl", CONTEXT)
    check(text, item_file(*items))
    assert {one["prompt"]["status"] for one in results()} == {"checked"}
    assert all(one["prompt"]["found"] for one in results())
