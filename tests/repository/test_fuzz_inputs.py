"""Damaged JSON lines, YAML and CSV files, whichever script reads them: the right result, or a refusal without a trace.

A few mutations of each file always, all 2,000 of them with the marker slow. Seeded: a failure comes again.
"""

import json
from pathlib import Path

import pytest
from fuzz_targets import targets
from fuzzing import Target, failures, outcome
from mutations import MUTATORS, mutations

from open_instruct.common.errors import UserError

NAMES = [target.name for target in targets(Path("model"))]
NUM_MUTATIONS = 2_000


def named(name: str, model: Path) -> Target:
    return next(target for target in targets(model) if target.name == name)


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_gives_the_right_result_or_a_refusal(name, toy_model, tmp_path):
    assert failures(named(name, toy_model), tmp_path, seed=0, count=5) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_mutation_gives_the_right_result_or_a_refusal(name, toy_model, tmp_path):
    assert failures(named(name, toy_model), tmp_path, seed=1, count=-(-NUM_MUTATIONS // len(NAMES))) == []


@pytest.mark.parametrize("suffix", MUTATORS)
def test_mutations_are_seeded_and_differ_from_the_file(suffix):
    content = {".csv": b"a,b\n1,2\n", ".yaml": b"a: {b: [1, 2]}\n"}.get(suffix, json.dumps({"a": {"b": [1]}}).encode())
    first, again = (list(mutations(content, MUTATORS[suffix], seed=3, count=300)) for _ in range(2))
    assert first == again
    assert all(mutation.content != content for mutation in first)
    assert len({mutation.content for mutation in first}) > 100


def problem(toy_model, tmp_path, content: bytes) -> str | None:
    return outcome(named("own rows", toy_model), content, tmp_path / "home")[1]


ROWS = b'{"body": "cat", "topic": 0}\n{"body": "dog", "topic": 1}\n'


def test_the_verdict_finds_a_traceback(toy_model, tmp_path, monkeypatch):
    monkeypatch.setattr("open_instruct.data.sources.read_jsonl", lambda *_, **__: 1 / 0)
    assert "ZeroDivisionError" in (problem(toy_model, tmp_path, ROWS) or "")


def test_the_verdict_finds_a_wrong_value(toy_model, tmp_path, monkeypatch):
    monkeypatch.setattr("open_instruct.data.prompts.text_at", lambda row, column, **_: str(row[column]))
    assert "another reader" in (problem(toy_model, tmp_path, ROWS.replace(b'"cat"', b'["cat"]')) or "")


def test_the_verdict_finds_what_a_refusal_leaves(toy_model, tmp_path, monkeypatch):
    def write_and_refuse(self, *_, **__):
        (tmp_path / "home/data").mkdir()
        (tmp_path / "home/data/x.jsonl").touch()
        raise UserError("found x")

    monkeypatch.setattr("open_instruct.format_generalization.main", write_and_refuse)
    assert problem(toy_model, tmp_path, ROWS) == "refused, and wrote ['data/x.jsonl']"
