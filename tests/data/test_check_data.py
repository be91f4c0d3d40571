"""The table of formatted data: counts one can check by hand, shared rows, what is wrong with files from elsewhere."""

import pytest
from toy_models import toy_tokenizer

from open_instruct import check_data
from open_instruct.check_data import Args
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import write_jsonl
from open_instruct.common.paths import exemplar_file
from open_instruct.data import inspection
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


def look(tokenizer, **options):
    """The reports by name."""
    loaded, num_samples = check_data.load_tokenizer(tokenizer), Args(tokenizer, **options).num_samples
    reports = [inspection.inspect_file(path, loaded, num_samples=num_samples) for path in check_data.data_files()]
    return {report.name: report for report in reports}


def test_rows_labels_and_lengths_are_counted(tokenizer):
    labels = [" yes", " no", " yes", " yes"]
    write(paths.evaluation_file("rte"), [record("rte", i, "A" * i, c) for i, c in enumerate(labels)], kind="labels")
    report = look(tokenizer, max_length=2)["evaluation/rte"]
    assert report.rows == 4
    assert report.labels == {"yes": 3, "no": 1}
    loaded = check_data.load_tokenizer(tokenizer)
    assert report.prompt_tokens == [len(loaded.encode("A" * i).ids) for i in range(4)]
    assert report.all_tokens == [len(loaded.encode("A" * i + c).ids) + 1 for i, c in enumerate(labels)]
    line = check_data.table([report], 2).splitlines()[1]
    assert "no 25% yes 75%" in line
    assert line.endswith(f"{sum(n > 2 for n in report.all_tokens)}")


def test_spread_is_median_95_percent_and_largest():
    assert inspection.percentiles([1, 2, 3]) == "2 / 3 / 3"
    assert inspection.percentiles([0] * 95 + [100] * 5) == "0 / 5 / 100"
    assert inspection.percentiles([]) == "-"


def test_a_chat_is_counted_by_who_speaks(tokenizer):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "A cat."}]
    assert inspection.prompt_and_completion({"messages": turns}) == ("Hi\n", "A cat.\n")
    write(paths.train_file("chats"), [{"dataset": "chats", "id": "0", "messages": turns}])
    assert look(tokenizer)["chats"].rows == 1


def test_shared_rows_are_told_apart(tokenizer):
    items = [record("set", i, f"Prompt {i}:", f" answer {i}") for i in range(5)]
    write(paths.evaluation_file("set"), items)
    train = [items[0], record("set", 1, "PROMPT  1:", " answer 1"), record("set", 2, "Prompt 2:", " another")]
    write(paths.train_file("train"), [*train, record("set", 9, "Prompt 9:", " answer 9")])
    assert list(inspection.shared_rows(look(tokenizer).values())) == [SharedRows("train", "evaluation/set", 1, 1, 1)]


def test_texts_without_a_prompt_share_none(tokenizer):
    write(paths.evaluation_file("text"), [record("text", 0, "", "One text.")])
    write(paths.train_file("train"), [record("train", 0, "", "Another text.")])
    assert list(inspection.shared_rows(look(tokenizer).values())) == []


def test_what_is_wrong_is_named_all_at_once(tokenizer, capsys):
    same = [record("one", i, "P:", " no") for i in range(2)]
    write(paths.evaluation_file("one"), same, kind="labels")
    write(exemplar_file(paths.evaluation_file("one")), same[:1])
    write_jsonl(paths.train_file("twice"), [record("twice", 0, "P:", " a")] * 2)
    with pytest.raises(UserError) as failure:
        check_data.main(Args(tokenizer))
    message = str(failure.value)
    assert "twice: no sidecar" in message
    assert "twice: 1 ids are repeated, such as twice-0" in message
    assert "evaluation/one: every label is 'no'; accuracy on it measures nothing" in message
    assert "evaluation/one: exemplars that are also evaluated: one-0" in message


def test_the_page_holds_the_table_and_escapes_what_data_say(tokenizer, tmp_path, capsys):
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


def test_no_data_and_no_tokenizer_say_what_to_do(tokenizer, tmp_path):
    with pytest.raises(UserError, match=r"no formatted data; make it with `python open_instruct/format_generali"):
        check_data.main(Args(tokenizer))
    with pytest.raises(UserError, match="no such tokenizer"):
        check_data.main(Args(tmp_path / "none"))


def test_records_of_another_form_are_named(tokenizer):
    write(paths.train_file("other"), [{"dataset": "other", "id": "other-0", "text": "A"}])
    with pytest.raises(
        UserError, match="other-0: expected prompt and completion, or messages; found dataset, id, text"
    ):
        look(tokenizer)
