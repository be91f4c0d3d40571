"""Checks of formatted data: counts, rows that train and evaluation files share, problems of files."""

import pytest
from toy_models import toy_tokenizer
from toy_tokenizers import save_tokenizer

from open_instruct import check_data
from open_instruct.check_data import Args
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import write_jsonl
from open_instruct.common.model_loading import load_tokenizer
from open_instruct.data import inspection
from open_instruct.data.encode import encode_examples
from open_instruct.data.inspection import SharedRows


@pytest.fixture
def tokenizer(tmp_path):
    toy_tokenizer(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def write(path, records, **identity):
    with Artifact(path, {}, identity={"protocol": "corrected", "format": "default"} | identity).making():
        write_jsonl(path, records)


def record(name, index, prompt, completion):
    return {"dataset": name, "id": f"{name}-{index}", "prompt": prompt, "completion": completion}


def inspect(tokenizer, **options):
    """The reports by name."""
    loaded, num_samples = check_data.load_tokenizer(tokenizer), Args(tokenizer, **options).num_samples
    reports = [inspection.inspect_file(path, loaded, num_samples=num_samples) for path in check_data.data_files()]
    return {report.name: report for report in reports}


def test_rows_labels_and_lengths_are_counted(tokenizer):
    labels = [" yes", " no", " yes", " yes"]
    write(paths.evaluation_file("rte"), [record("rte", i, "A" * i, c) for i, c in enumerate(labels)], kind="labels")
    report = inspect(tokenizer, max_seq_length=2)["evaluation/rte"]
    assert report.rows == 4
    assert report.labels == {"yes": 3, "no": 1}
    loaded = check_data.load_tokenizer(tokenizer)
    assert report.prompt_tokens == [len(loaded.encode("A" * i).ids) for i in range(4)]
    assert report.all_tokens == [len(loaded.encode("A" * i + c).ids) + 1 for i, c in enumerate(labels)]
    line = check_data.table([report], 2).splitlines()[1]
    assert "no 25% yes 75%" in line
    assert line.endswith(f"{sum(n > 2 for n in report.all_tokens)}")


def test_percentiles_are_median_95th_and_maximum():
    assert inspection.percentiles([1, 2, 3]) == "2 / 3 / 3"
    assert inspection.percentiles([0] * 95 + [100] * 5) == "0 / 5 / 100"
    assert inspection.percentiles([]) == "-"


def test_tokens_of_a_chat_are_counted_by_role(tokenizer):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "A cat."}]
    assert inspection.prompt_and_completion({"messages": turns}) == ("Hi\n", "A cat.\n")
    write(paths.train_file("chats"), [{"dataset": "chats", "id": "0", "messages": turns}])
    assert inspect(tokenizer)["chats"].rows == 1


def test_shared_rows_are_counted_by_kind_of_match(tokenizer):
    items = [record("set", i, f"Prompt {i}:", f" answer {i}") for i in range(5)]
    write(paths.evaluation_file("set"), items)
    train = [items[0], record("set", 1, "PROMPT  1:", " answer 1"), record("set", 2, "Prompt 2:", " another")]
    write(paths.train_file("train"), [*train, record("set", 9, "Prompt 9:", " answer 9")])
    assert list(inspection.shared_rows(inspect(tokenizer).values())) == [SharedRows("train", "evaluation/set", 1, 1, 1)]


def test_empty_prompts_are_not_counted_as_shared(tokenizer):
    write(paths.evaluation_file("text"), [record("text", 0, "", "One text.")])
    write(paths.train_file("train"), [record("train", 0, "", "Another text.")])
    assert list(inspection.shared_rows(inspect(tokenizer).values())) == []


def test_all_problems_are_reported_together(tokenizer, capsys):
    same = [record("one", i, "P:", " no") for i in range(2)]
    write(paths.evaluation_file("one"), same, kind="labels")
    write_jsonl(paths.train_file("twice"), [record("twice", 0, "P:", " a")] * 2)
    with pytest.raises(UserError) as failure:
        check_data.main(Args(tokenizer))
    message = str(failure.value)
    assert "twice: no sidecar" in message
    assert "twice: 1 ids are repeated, such as twice-0" in message
    assert "evaluation/one: every label is 'no'; accuracy on it measures nothing" in message


def test_the_page_has_the_table_and_escapes_text_from_data(tokenizer, tmp_path, capsys):
    turns = [{"role": "user", "content": "<b>"}, {"role": "assistant", "content": "a & b"}]
    write(paths.train_file("chats"), [{"dataset": "chats", "id": "0", "messages": turns}])
    write(paths.evaluation_file("set"), [record("set", 0, "<script>P:", " <i>x")])
    check_data.main(Args(tokenizer, html=tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    assert '&lt;script&gt;P:<span class="completion"> &lt;i&gt;x</span>' in page
    assert "<script>" not in page
    assert '<span class="completion">a &amp; b</span>' in page
    assert "<td>evaluation/set</td>" in page
    assert "evaluation/set" in capsys.readouterr().out


def test_missing_data_and_a_missing_tokenizer_are_errors_that_say_what_to_do(tokenizer, tmp_path):
    with pytest.raises(UserError, match=r"no formatted data; make it with `python open_instruct/format_generali"):
        check_data.main(Args(tokenizer))
    write(paths.train_file("other"), [{"dataset": "other", "id": "other-0", "prompt": "A", "completion": " b"}])
    with pytest.raises(UserError, match="no such tokenizer"):
        check_data.main(Args(tmp_path / "none"))


def test_a_record_without_prompt_or_messages_is_named(tokenizer):
    write(paths.train_file("other"), [{"dataset": "other", "id": "other-0", "text": "A"}])
    with pytest.raises(
        UserError, match=r"other\.jsonl:1: expected prompt and completion, or messages; found dataset, id, text"
    ):
        inspect(tokenizer)


def test_lengths_are_those_of_training(tmp_path):
    save_tokenizer(tmp_path / "tokenizer", "byte-level BPE (GPT-2, OLMo)", begins=True)
    rows = [record("mine", 0, "It ends with <|end|>.", " <|end|>"), record("mine", 1, "", "The cat")]
    write(paths.train_file("mine"), rows, train_set="mine")
    examples, _ = encode_examples(load_tokenizer(tmp_path / "tokenizer"), rows, max_length=99)
    assert inspect(tmp_path / "tokenizer")["mine"].all_tokens == [len(example.ids) for example in examples]
