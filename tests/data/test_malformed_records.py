"""Files that people really have: encodings, cut gzip files, wrong types are refused with file:line, or read right."""

import gzip
import json

import pytest
from toy_predictions import write_predictions

from eval import eval_pred
from eval.metrics.prediction_files import identify_predictions, read_predictions
from eval.prediction.prediction_spec import identify_evaluation, sample_items
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_jsonl, write_jsonl
from open_instruct.data.train_records import read_train_records, require_train_file

PAIR = {"id": "0", "prompt": "The cat", "completion": " sat"}
LINES = "".join(json.dumps(PAIR | {"id": str(i)}) + "\n" for i in range(500)).encode()
ZIPPED = gzip.compress(LINES)


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
        ("a.jsonl", LINES.decode().encode("utf-16"), r"a\.jsonl:1: not UTF-8"),
        ("a.jsonl", b"{}\n" + '{"id": "café"}\n'.encode("latin-1"), r"a\.jsonl:2: not UTF-8"),
        ("a.jsonl", LINES + b"[1]\n", r"a\.jsonl:501: expected a JSON object; found list"),
        ("a.jsonl", LINES + b"\n", r"a\.jsonl:501: expected one JSON object a line"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl:1: expected one JSON object a line"),
        ("a.jsonl", b'{"id": ' + b"9" * 5_000 + b"}", r"a\.jsonl:1: expected one JSON object a line"),
        ("a.jsonl.gz", ZIPPED[: len(ZIPPED) // 2], r"a\.jsonl\.gz:\d+: not readable as gzip"),
        ("a.jsonl.gz", ZIPPED[:40] + b"\0\1\2" + ZIPPED[43:], r"a\.jsonl\.gz:\d+: not readable as gzip"),
        ("a.jsonl.gz", ZIPPED[:-6] + b"\0" * 6, r"a\.jsonl\.gz:501: not readable as gzip"),
        ("a.jsonl.gz", LINES, r"a\.jsonl\.gz:1: not readable as gzip"),
    ],
    ids=str,
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
        ({"messages": [turn("User"), turn("Assistant")]}, r":2: no text of the role assistant.*roles User, Assistant"),
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


def test_train_and_prediction_files_are_not_predicted(tmp_path):
    for name, identity in (("train", {"train_set": "rte"}), ("prediction", {"model_id": "a", "eval_set": "rte"})):
        path = tmp_path / f"{name}.jsonl"
        with Artifact(path, {}, identity=identity).making():
            write_jsonl(path, [PAIR])
        with pytest.raises(UserError, match=rf"{name}\.jsonl is a {name} file; expected one of .*evaluation"):
            identify_evaluation(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": 5}, "prompt: expected text"),
        ({"completion": None}, "completion: expected text"),
        ({"completion": ["a"]}, "completion: expected text"),
        ({"completion": " "}, "an empty completion"),
        ({"id": "0"}, "id '0'; expected text or a number, each once"),
        ({"id": ["a"]}, r"id \['a'\]; expected text"),
    ],
    ids=str,
)
def test_malformed_evaluation_records_are_refused_by_file_and_line(tmp_path, changes, message):
    (tmp_path / "a.jsonl").write_text(json.dumps(PAIR) + "\n" + json.dumps(PAIR | {"id": "1"} | changes) + "\n")
    with pytest.raises(UserError, match=rf"a\.jsonl:2: {message}"):
        sample_items(tmp_path / "a.jsonl", None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": ["a"]}, r"found id \['a'\]"),
        ({"scores": None}, "found scores None"),
        ({"scores": [-1, -2]}, r"found scores \[-1, -2\]"),
        ({"scores": {"yes": "a", "no": -1}}, "found scores"),
        ({"finished": "yes"}, "found finished 'yes'; expected true or false"),
        ({"gold_logprob": "-3"}, "found gold_logprob '-3'"),
        ({"gold_logprob": True}, "found gold_logprob True"),
        ({"output": 3}, r"output: expected text, found '3' \(int\)"),
        ({"completion": " \ud83d"}, "completion: text that is not valid Unicode"),
    ],
    ids=str,
)
def test_malformed_predictions_are_refused_by_file_and_line(tmp_path, changes, message):
    record = {"dataset": "rte", "output": "no", "scores": {"yes": -2, "no": -1}, **PAIR, "completion": " no"}
    (tmp_path / "a.jsonl").write_text(json.dumps(record | changes) + "\n")
    with pytest.raises(UserError, match=rf"a\.jsonl:1: {message}"):
        read_predictions(tmp_path / "a.jsonl", "labels")


@pytest.mark.parametrize("dataset", [None, ["sciq"], 3], ids=str)
@pytest.mark.parametrize("identify", [identify_predictions, identify_evaluation])
def test_a_dataset_that_is_no_name_is_refused(tmp_path, identify, dataset):
    (tmp_path / "a.jsonl").write_text(json.dumps(PAIR | {"dataset": dataset}) + "\n")
    with pytest.raises(UserError, match=r"a\.jsonl:1: dataset: expected text, found"):
        identify(tmp_path / "a.jsonl")


def test_clusters_and_a_declared_metric_are_in_the_metrics_file(predictions):
    records = [PAIR | {"id": str(i), "output": ("sat", "ran")[i], "cluster": f"user {i}"} for i in range(2)]
    path = write_predictions(predictions / "a.jsonl", records, kind="generation", eval_set="own", metric="exact_match")
    eval_pred.main(eval_pred.Args((path,)))
    metrics = eval_pred.load_metrics(paths.metrics_file(path))
    assert (metrics.primary, metrics.metrics["exact_match"].mean) == ("exact_match", 0.5)
    assert metrics.items["exact_match"] == [1, 0]
    assert metrics.items["cluster"] == ["user 0", "user 1"]
