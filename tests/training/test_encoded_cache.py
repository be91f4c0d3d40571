"""The cache of encoded train files: one entry per content and tokenizer, shared by the checkpoints of a family."""

import pytest
from toy_models import toy_tokenizer

from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import write_jsonl
from open_instruct.training import data
from open_instruct.training.data import load_train_and_validation

ROWS = [{"id": str(i), "prompt": f"The cat {i} sat", "completion": " on the mat"} for i in range(5)]


@pytest.fixture
def train_file(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    return tmp_path / "train.jsonl"


@pytest.fixture
def tokenised(monkeypatch):
    """One entry for each time that text is tokenised."""
    calls = []
    write_encoded = data.write_encoded
    monkeypatch.setattr(data, "write_encoded", lambda *args: calls.append(1) or write_encoded(*args))
    return calls


def load(train_file, tmp_path, tokenizer="tokenizer", **changes):
    settings = {"validation_file": None, "max_train_rows": None, "num_validation_rows": 0}
    settings |= {"max_length": 64, "num_workers": 1}
    return load_train_and_validation(toy_tokenizer(tmp_path / tokenizer), train_file, **(settings | changes))


def as_lists(examples):
    return [(list(example.ids), list(example.labels)) for example in examples]


def test_the_same_content_is_tokenised_once(train_file, tmp_path, tokenised):
    first, _, _ = load(train_file, tmp_path)
    again, _, _ = load(train_file, tmp_path)
    # Another checkpoint of the family: the same tokenizer in another folder, and the train file written again.
    train_file.write_bytes(train_file.read_bytes())
    other, _, _ = load(train_file, tmp_path, "another folder")
    assert len(tokenised) == 1
    assert as_lists(first) == as_lists(again) == as_lists(other)
    assert len(list((paths.base_dir() / "output" / "encoded").glob("*.arrow"))) == 1


@pytest.mark.parametrize("change", ["content", "max_length", "rows"])
def test_everything_that_affects_token_ids_makes_a_new_entry(train_file, tmp_path, tokenised, change):
    load(train_file, tmp_path)
    if change == "content":
        write_jsonl(train_file, [*ROWS, {"id": "5", "prompt": "The dog", "completion": " sat"}])
    changes = {"max_length": {"max_length": 12}, "rows": {"max_train_rows": 2}}.get(change, {})
    examples, _, num_cut = load(train_file, tmp_path, **changes)
    assert len(tokenised) == 2
    assert len(examples) == {"content": 6, "rows": 2}.get(change, 5)
    assert num_cut == 0 if change != "max_length" else num_cut > 0
    assert examples.lengths.max() <= changes.get("max_length", 64)


def test_a_damaged_entry_is_made_again(train_file, tmp_path, tokenised):
    first, _, _ = load(train_file, tmp_path)
    expected = as_lists(first)
    (file,) = (paths.base_dir() / "output" / "encoded").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:100])
    again, _, _ = load(train_file, tmp_path)
    assert len(tokenised) == 2
    assert as_lists(again) == expected


@pytest.mark.slow
def test_several_processes_give_the_same_token_ids(train_file, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "RECORDS_PER_CHUNK", 2)
    one, _, _ = load(train_file, tmp_path)
    (file,) = (paths.base_dir() / "output" / "encoded").glob("*.arrow")
    file.unlink()
    several, _, _ = load(train_file, tmp_path, num_workers=2)
    assert as_lists(one) == as_lists(several)


def test_targets_and_lengths_of_rows_equal_those_of_their_examples(train_file, tmp_path):
    examples, validation, _ = load(train_file, tmp_path, num_validation_rows=2)
    assert validation is not None
    assert (len(examples), len(validation)) == (3, 2)
    assert examples.num_targets.tolist() == [example.num_targets for example in examples]
    assert examples.lengths.tolist() == [len(example.ids) for example in examples]


def test_an_empty_validation_file_is_refused(train_file, tmp_path):
    (tmp_path / "none.jsonl").touch()
    with pytest.raises(UserError, match="no rows; expected records to validate on"):
        load(train_file, tmp_path, validation_file=tmp_path / "none.jsonl")
