"""A user's own datasets: declared in YAML, formatted, held back, decontaminated, refused with the line."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import toy_datasets
import yaml
from loopback_hub import LoopbackHub

from open_instruct import format_generalization
from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_jsonl
from open_instruct.common.paths import exemplar_file
from open_instruct.common.sidecars import read_sidecar
from open_instruct.data import sources
from open_instruct.data.registry import read_datasets
from open_instruct.format_generalization import Args

TICKETS = {
    "train": "tickets/train*.jsonl",
    "test": "tickets/test.jsonl",
    "prompt": "Ticket: {text}\nTopic:",
    "fields": {"text": "body", "label": "topic"},
    "labels": {0: "billing", 1: "delivery"},
}


def ticket(part: str, i: int) -> dict[str, Any]:
    return {"body": f"The {part} parcel {i} is late.", "topic": i % 2, "user": i // 4}


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def folder(tmp_path):
    """A folder with 60 train rows in two files, and 40 test rows."""
    rows = [ticket("train", i) for i in range(60)]
    write_lines(tmp_path / "tickets" / "train-0.jsonl", rows[:30])
    write_lines(tmp_path / "tickets" / "train-1.jsonl", rows[30:])
    write_lines(tmp_path / "tickets" / "test.jsonl", [ticket("test", i) for i in range(40)])
    return tmp_path


def declare(folder: Path, *removed: str, **changes: Any) -> Path:
    entry = {key: value for key, value in (TICKETS | changes).items() if key not in removed}
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump({"tickets": entry}))
    return path


def format_own(datasets_file: Path, *, train=("tickets",), evaluation=("tickets",), **options: Any) -> None:
    format_generalization.main(
        Args(tuple(train) or None, tuple(evaluation) or None, datasets_file=datasets_file, **options)
    )


def records(path: Path) -> list[dict[str, Any]]:
    return list(read_jsonl(path))


def test_the_numbers_of_rows_that_are_left_for_exemplars_or_not_sampled_are_told(folder, capsys):
    format_own(declare(folder), evaluation=())
    assert "44 rows; sampled 44 of 60" in capsys.readouterr().out
    assert read_sidecar(paths.train_file("tickets"))["sampled_from"] == 60


def test_raw_rows_are_not_replaced_by_formatted_ones(folder):
    raw = paths.train_file("tickets")
    write_lines(raw, [ticket("train", i) for i in range(9)])
    content = raw.read_bytes()
    for options in ({}, {"overwrite": True}):
        with pytest.raises(UserError, match="the formatted rows of tickets would replace the raw ones; move the raw"):
            format_own(declare(folder, train=str(raw)), evaluation=(), **options)
    assert raw.read_bytes() == content


def test_brackets_in_the_names_of_folders_and_files_are_no_patterns(folder):
    odd = folder / "data [v2]"
    write_lines(odd / "test[1].jsonl", [ticket("test", i) for i in range(4)])
    format_own(declare(odd, "train", test="test[1].jsonl"), train=())
    assert len(records(paths.evaluation_file("tickets"))) == 4


def test_json_lines_become_train_and_evaluation_files_with_their_exemplars(folder):
    format_own(declare(folder, cluster="user"))
    train, test = records(paths.train_file("tickets")), records(paths.evaluation_file("tickets"))
    # Of 60 train rows 16 are left for exemplars.
    assert (len(train), len(test)) == (44, 40)
    assert test[5] == {
        "dataset": "tickets",
        "id": "tickets-5",
        "cluster": "1",
        "prompt": "Ticket: The test parcel 5 is late.\nTopic:",
        "completion": " delivery",
    }
    shots = records(exemplar_file(paths.evaluation_file("tickets")))
    assert len(shots) == 8
    assert not {shot["id"] for shot in shots} & {record["id"] for record in train}
    assert all(shot["id"].startswith("tickets-train-") for shot in shots)
    sidecar = read_sidecar(paths.evaluation_file("tickets"))
    assert sidecar["identity"] == {
        "eval_set": "tickets",
        "format": "default",
        "protocol": "corrected",
        "data_settings": "",
        "kind": "labels",
        "role": "in-domain of tickets",
    }
    assert sidecar["label_words"] == ["billing", "delivery"]
    identity = read_sidecar(paths.train_file("tickets"))["identity"]
    assert identity == {"train_set": "tickets", "chat": False, "protocol": "corrected", "data_settings": ""}


def test_parquet_and_json_lines_give_the_same_bytes(folder, monkeypatch):
    written = []
    for ending in ("jsonl", "parquet"):
        if ending == "parquet":
            rows = [ticket("train", i) for i in range(60)]
            (folder / "tickets" / "train.parquet").write_bytes(toy_datasets.parquet(rows))
            (folder / "tickets" / "test.parquet").write_bytes(
                toy_datasets.parquet([ticket("test", i) for i in range(40)])
            )
        monkeypatch.setenv("data_dir", str(folder / ending))
        format_own(declare(folder, train=f"tickets/train*.{ending}", test=f"tickets/test.{ending}"))
        files = (paths.train_file("tickets"), paths.evaluation_file("tickets"))
        written.append([path.read_bytes() for path in files])
    assert written[0] == written[1]


def test_a_dataset_on_the_hub_is_read_at_its_revision(folder, monkeypatch):
    sources.hub_files.cache_clear()
    with LoopbackHub() as hub:
        hub.point_clients_here(monkeypatch, folder / "cache")
        files = {
            "data/train-0.jsonl": toy_datasets.json_lines([ticket("train", i) for i in range(60)]),
            "data/test-0.parquet": toy_datasets.parquet([ticket("test", i) for i in range(40)]),
        }
        commit = hub.add("dataset", "me/tickets", files, ref="v1")
        hub.add("dataset", "me/tickets", {"README.md": "main has no data"})
        own = declare(folder, hub="me/tickets", revision="v1", train="data/train-*.jsonl", test="data/test-*.parquet")
        format_own(own)
    assert len(records(paths.train_file("tickets"))) == 44
    assert len(records(paths.evaluation_file("tickets"))) == 40
    (source,) = read_sidecar(paths.evaluation_file("tickets"))["sources"]
    assert source["commit"] == commit


def test_ready_prompts_and_completions_need_no_template(folder):
    write_lines(folder / "qa.jsonl", [{"prompt": f"Q{i}: ", "completion": f"A{i}"} for i in range(9)])
    own = declare(folder, "prompt", "fields", "labels", "test", train="qa.jsonl")
    format_own(own, evaluation=())
    # Without exemplars no row is left for them.
    assert sorted((r["prompt"], r["completion"]) for r in records(paths.train_file("tickets"))) == [
        (f"Q{i}:", f" A{i}") for i in range(9)
    ]


def test_ready_labels_are_the_column_completion(folder):
    rows = [{"prompt": f"Parcel {i}:", "completion": ("late", "on time")[i % 2]} for i in range(6)]
    write_lines(folder / "ready.jsonl", rows)
    own = declare(folder, "prompt", "fields", "train", labels=["late", "on time"], test="ready.jsonl")
    format_own(own, train=())
    assert [r["completion"] for r in records(paths.evaluation_file("tickets"))][:2] == [" late", " on time"]
    sidecar = read_sidecar(paths.evaluation_file("tickets"))
    # The longer label first: a generation that begins with it also begins with a shorter one that it contains.
    assert (sidecar["label_words"], sidecar["parse_order"]) == (["late", "on time"], ["on time", "late"])
    assert sidecar["identity"]["role"] == "other"


def test_messages_become_chats(folder):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    write_lines(folder / "chats.jsonl", [{"turns": turns}] * 3)
    own = declare(folder, "prompt", "fields", "labels", "test", train="chats.jsonl", messages="turns")
    format_own(own, evaluation=())
    assert [record["messages"] for record in records(paths.train_file("tickets"))] == [turns] * 3


def test_plain_text_has_no_prompt(folder):
    write_lines(folder / "text.jsonl", [{"text": f"Parcel {i} is late."} for i in range(3)])
    own = declare(folder, "prompt", "fields", "labels", "train", test="text.jsonl", kind="text")
    format_own(own, train=())
    first = records(paths.evaluation_file("tickets"))[0]
    assert (first["prompt"], first["completion"]) == ("", "Parcel 0 is late.")


def test_exemplars_held_back_are_rows_of_the_test_part(folder, capsys):
    format_own(declare(folder, "train", exemplars="held_back"), train=())
    items = {record["id"] for record in records(paths.evaluation_file("tickets"))}
    shots = {record["id"] for record in records(exemplar_file(paths.evaluation_file("tickets")))}
    assert (len(items), len(shots), shots - items) == (40, 8, set())
    assert "40 rows, 8 exemplars (items, which few-shot evaluation leaves out)" in capsys.readouterr().out


@pytest.mark.parametrize("raw", [(0, 1), ("0", "1"), (0.0, 1.0), ("a", "b"), (False, True)], ids=str)
def test_labels_are_matched_as_they_are_written(folder, raw):
    write_lines(folder / "test.jsonl", [{"body": f"Parcel {i}", "topic": raw[i % 2]} for i in range(4)])
    written = [str(label).lower().removesuffix(".0") for label in raw]
    own = declare(folder, "train", test="test.jsonl", labels=dict(zip(written, ("billing", "delivery"), strict=True)))
    format_own(own, train=())
    assert [r["completion"] for r in records(paths.evaluation_file("tickets"))] == [" billing", " delivery"] * 2


def test_train_rows_that_are_also_evaluated_are_left_out_and_a_changed_test_file_is_compared_again(folder):
    rows = [ticket("test", 0), *(ticket("train", i) for i in range(9))]
    write_lines(folder / "tickets" / "train-0.jsonl", rows)
    (folder / "tickets" / "train-1.jsonl").unlink()
    own = declare(folder, exemplars="none")
    format_own(own)
    facts = read_sidecar(paths.train_file("tickets"))
    assert (facts["rows"], facts["overlap_exact"], facts["dropped_also_in_evaluation"]) == (9, 1, 1)
    write_lines(folder / "tickets" / "test.jsonl", [ticket("train", i) for i in range(2)] + [ticket("test", 5)])
    format_own(own, evaluation=())
    assert read_sidecar(paths.train_file("tickets"))["rows"] == 8


def test_another_format_metric_or_recipe_leaves_the_train_file_as_it_is(folder, capsys):
    format_own(declare(folder), evaluation=())
    prompts = {"default": TICKETS["prompt"], "instruct": "{text}?"}
    more = {"prompts": prompts, "metric": "bits_per_byte", "cluster": "user", "lr": 1e-5, "epochs": 2}
    format_own(declare(folder, "prompt", **more), evaluation=())
    assert "tickets.jsonl is done; skipped" in capsys.readouterr().out
    with pytest.raises(UserError, match="was made from other declarations of it and its evaluation sets; give one"):
        format_own(declare(folder, labels={0: "billing", 1: "way"}, exemplars="none"), evaluation=())


def test_a_train_set_of_nothing_but_evaluated_rows_is_refused(folder):
    with pytest.raises(UserError, match="each of the 40 train rows is also in the evaluation set; train on other rows"):
        format_own(declare(folder, train="tickets/test.jsonl", exemplars="none"))


def test_datasets_of_base_dir_and_of_a_study_file_are_known_together(folder):
    (folder / "datasets.yaml").write_text(yaml.safe_dump({"tickets": TICKETS}))
    study = folder / "study.yaml"
    study.write_text(yaml.safe_dump({"evaluation": {}, "datasets": {"more": TICKETS}}))
    datasets = read_datasets(study)
    assert {"tickets", "more", "socialiqa"} <= {*datasets.train_sets} & {*datasets.eval_sets}
    assert datasets.eval_set("more").split.own_files == (str(folder / "tickets" / "test.jsonl"),)
    with pytest.raises(UserError, match=r"unknown evaluation set ticket \(did you mean tickets\?\)"):
        datasets.eval_set("ticket")
    study.write_text(yaml.safe_dump({"evaluation": {}}))
    assert "more" not in read_datasets(study).eval_sets


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tests": "x.jsonl"}, r":\d+: unknown key tickets\.tests \(did you mean test"),
        (
            {"prompt": "Ticket: {txt}"},
            r"tickets\.prompt: \{txt\} is not among the fields \(did you mean text\?\)",
        ),
        ({"fields": {"text": "body", "lable": "topic"}}, r"tickets\.fields: lable is in no prompt and no completion"),
        ({"prompt": "Ticket: {"}, r"tickets\.prompt: 'Ticket: \{': .*a brace that is text is written twice"),
        ({"prompt": "{text!r}"}, r"tickets\.prompt: .*expected names of fields in braces"),
        ({"prompts": {"default": "{text}"}}, r"expected either prompt or prompts"),
        ({"kind": "label"}, r"tickets\.kind: expected one of generation, labels, text, found 'label'"),
        ({"kind": "generation"}, r"tickets\.labels: are for kind labels, not for generation"),
        ({"labels": ["late"]}, r"tickets\.labels: expected at least two label texts"),
        ({"labels": {0: False, 1: "b"}}, r"tickets\.labels\.0: expected str, found 'false'; write it in quotes"),
        ({"completion": "{label}."}, r"tickets\.completion: expected \{label\} alone"),
        ({"metric": "rouge_l"}, r"tickets\.metric: expected one of accuracy, bits_per_byte for kind labels"),
        ({"role": "in domain"}, r"tickets\.role: expected `in-domain of X`"),
        ({"role": "in-domain of ticket"}, r"tickets\.role: unknown train set ticket \(did you mean tickets"),
        ({"role": "in-domain of socialiqa"}, r"tickets\.role: socialiqa is not declared in this file"),
        ({"sample": 0}, r"tickets\.sample: expected a number at least 1, found 0"),
        ({"lr": float("nan")}, r"tickets\.lr: expected a number above 0, found nan"),
        ({"train": [], "exemplars": "train"}, r"tickets\.exemplars: train: expected train and test"),
        ({"train": [], "test": []}, r"tickets: expected train or test"),
        ({"hub": "tickets"}, r"tickets\.hub: expected owner/name"),
        ({"hub": "me/tickets", "train": ["a", "b"]}, r"tickets\.train: expected one pattern"),
        ({"hub": "me/tickets", "train": "data/train-*"}, r"tickets\.train: expected a pattern that ends in \.parquet"),
        ({"revision": "v1"}, r"tickets\.revision: is that of a dataset on the Hub"),
        ({"messages": "turns"}, r"tickets\.prompt: has no effect on messages"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_problems_of_a_declaration_are_named_with_their_line(folder, changes, message):
    with pytest.raises(UserError, match=message):
        read_datasets(declare(folder, **changes))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rte", r"own\.yaml:1: rte: there is a dataset of this name already"),
        ("rte_instruct", r"its file rte_instruct\.jsonl is that of another set"),
        ("tickets_dataseed7", r"ends in _dataseed7 is that of other data settings"),
        ("a/b", r"expected letters, digits, _ and - only"),
    ],
)
def test_names_that_are_those_of_other_files_are_refused(folder, name, message):
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump({name: TICKETS}))
    with pytest.raises(UserError, match=message):
        read_datasets(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"body": ["a"], "topic": 0}, r"tickets-0: column body holds \"\['a'\]\", a list, not text; `body\.0` is its"),
        ({"body": {"a": 1}, "topic": 0}, r"column body holds .*, a dict, not text; `body\.KEY` is one"),
        ({"body": "a", "topic": 2}, r"tickets-0: label 2; expected one of \['0', '1'\]"),
        ({"body": "a", "topic": [0]}, r"tickets-0: label \[0\]; expected one of"),
        ({"text": "a", "topic": 0}, r"tickets-0: no column body; found text, topic"),
    ],
    ids=str,
)
def test_rows_that_do_not_fit_the_declaration_are_refused(folder, row, message):
    write_lines(folder / "tickets" / "test.jsonl", [row])
    with pytest.raises(UserError, match=message):
        format_own(declare(folder), train=())


@pytest.mark.parametrize(("test", "message"), [("no.jsonl", "no such file"), ("own.yaml", "expected JSON lines")])
def test_files_that_are_missing_or_of_another_format_are_refused(folder, test, message):
    with pytest.raises(UserError, match=message):
        format_own(declare(folder, test=test), train=())
