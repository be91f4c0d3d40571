"""Properties of formatting, for any text: nothing is lost, white space is where it belongs, files are JSON lines."""

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_jsonl
from open_instruct.data.evaluation_files import format_eval_set, render_formats
from open_instruct.data.formatting import FormatOptions
from open_instruct.data.prompts import empty_part, render
from open_instruct.data.registry import read_datasets
from open_instruct.data.settings import DataSettings
from open_instruct.data.sources import SourceOptions
from open_instruct.tasks import EVAL_SETS, TRAIN_SETS, eval_set_named
from open_instruct.tasks.declarations import Split

# Any text, often with characters that are special in prompts or JSON lines.
TEXTS = st.text() | st.text(alphabet=" \t\r\n\x0b\x0c\x1c\x85\u2028\u2029\u200b\ufeff{}[]\"'\\\0ab☃😀", max_size=20)
ALL_TASKS = [task for task in (*TRAIN_SETS.values(), *EVAL_SETS.values()) if task.template]


def rows(task, texts=TEXTS):
    """Rows of a task with any text in every column, and any of its labels."""
    columns = {column.partition(".")[0]: column for column in task.fields.values() if column != "label"}
    values = {name: texts if name == column else st.lists(texts, max_size=2) for name, column in columns.items()}
    if (cluster := getattr(task, "cluster", None)) and cluster not in columns:
        values[cluster] = texts.filter(str.strip)
    if "label" in task.fields.values():
        is_score = getattr(task, "threshold", None) is not None
        values["label"] = st.floats(0, 5) if is_score else st.sampled_from(sorted(task.labels))
    return st.fixed_dictionaries(values)


@pytest.mark.parametrize("task", ALL_TASKS, ids=lambda task: f"{type(task).__name__} {task.name}")
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_space_belongs_to_the_completion(task, data):
    row = data.draw(rows(task))
    for task_format in task.template.prompts:
        record = render(task, row, row_id="x-0", task_format=task_format)
        assert json.loads(json.dumps(record, ensure_ascii=False)) == record
        if "messages" in record or empty_part(task, record):
            continue
        prompt, completion = record["prompt"], record["completion"]
        assert prompt == prompt.rstrip()
        assert completion.startswith(" ") == bool(prompt)
        assert completion.strip() == completion[bool(prompt) :]
        texts = [row[column].strip() for column in task.fields.values() if isinstance(row.get(column), str)]
        assert all(text in prompt + completion for text in texts)
        assert not task.labels or completion.strip() in task.labels.values()


@settings(max_examples=60, deadline=None)
@given(row=rows(eval_set_named("socialiqa")))
def test_the_papers_prompt_has_every_text_unstripped(row):
    record = render(eval_set_named("socialiqa"), row, row_id="x-0", protocol="paper")
    a, b, c = row["answerA"], row["answerB"], row["answerC"]
    whole = f"### Input: {row['context']}\n ### Answer: Answer A: {a} Answer B: {b}Answer C: {c}\n ### Question: "
    assert record["prompt"] + record["completion"] == whole + row["question"]
    assert record["completion"] == row["question"]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_files_are_json_lines_of_the_rendered_rows_with_unique_ids(data, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("data")
    monkeypatch.setenv("data_dir", str(folder))
    task = replace(eval_set_named("xsum"), split=Split(3, hub="a/b", files="c/d-*.parquet"), exemplars=None)
    drawn = data.draw(st.lists(rows(task), min_size=1, max_size=6))
    (folder / "mirror" / "a" / "b" / "c").mkdir(parents=True)
    lines = "".join(json.dumps(row) + "\n" for row in drawn)
    (folder / "mirror" / "a" / "b" / "c" / "d.jsonl").write_text(lines, encoding="utf-8")
    settings = DataSettings(any_row_count=True, drop_empty=True)
    options = FormatOptions(settings, read_datasets(), SourceOptions("local"))
    by_id = {f"xsum-{i}": render_formats(task, row, f"xsum-{i}", settings) for i, row in enumerate(drawn)}
    whole = {i: r for i, r in by_id.items() if not any(empty_part(task, record) for record in r.values())}
    if not whole:
        with pytest.raises(UserError, match="no rows"):
            format_eval_set(task, options, hub_is_reachable=True)
        return
    format_eval_set(task, options, hub_is_reachable=True)
    for task_format in task.template.prompts:
        found = list(read_jsonl(paths.evaluation_file("xsum", task_format, settings.suffix)))
        assert found == [records[task_format] for records in whole.values()]
        assert len({record["id"] for record in found}) == len(found)
