"""Render a row of a dataset as prompt and completion, in one of the formats, by one of the protocols."""

from collections.abc import Mapping
from typing import Any

from open_instruct.common.errors import UserError
from open_instruct.tasks.declarations import EvalSet, TrainSet

Task = EvalSet | TrainSet


def render(
    task: Task,
    row: Mapping[str, Any],
    *,
    row_id: str,
    task_format: str = "default",
    protocol: str = "corrected",
    allow_unlabelled: bool = False,
) -> dict[str, Any]:
    """The record of one row: {"dataset", "id", "prompt", "completion"}, or "messages" for a chat train set.

    `corrected`: the prompt ends without white space, the completion begins with one space.
    `paper`: prompt and completion exactly as in the paper's code, values unstripped.
    Either may be empty: see `empty_part`. Unlabelled rows, if allowed, get the text of the lowest label.
    Raises UserError for a missing column, a hidden or unknown label, and malformed messages.
    """
    missing = [column for column in task.fields.values() if column.partition(".")[0] not in row]
    if missing:
        raise UserError(f"{row_id}: no column {', '.join(missing)}; found {', '.join(row)}")
    record = {"dataset": task.name, "id": row_id}
    if task.template is None:
        return record | {"messages": messages(row[task.fields["messages"]], row_id=row_id)}
    values = {field: text_at(row, column) for field, column in task.fields.items()}
    if task.labels:
        label = row[task.fields["label"]]
        is_unlabelled = allow_unlabelled and (label is None or label == -1)
        values["label"] = label_text(task, min(task.labels) if is_unlabelled else label, row_id=row_id)
    if protocol == "paper" and task.template.paper_prompts:
        prompt = task.template.paper_prompts[task_format].format(**values)
        completion = task.template.completion.format(**values)
        return record | {"prompt": prompt, "completion": completion}
    values = {field: value.strip() for field, value in values.items()}
    prompt = task.template.prompts[task_format].format(**values).strip()
    completion = task.template.completion.format(**values)
    if isinstance(task, TrainSet) and task.chat:
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
        return record | {"messages": turns}
    return record | {"prompt": prompt, "completion": f" {completion}" if prompt and completion else completion}


def text_at(row: Mapping[str, Any], column: str) -> str:
    """The text in a column; `Answer.0` is the first entry of the list `Answer`. A missing value is empty text."""
    name, _, position = column.partition(".")
    value = row[name]
    if position:
        value = value[int(position)] if len(value) > int(position) else None
    return "" if value is None else str(value)


def messages(turns: Any, *, row_id: str) -> list[dict[str, str]]:
    """Raises UserError for turns that are not a list of {"role", "content"}."""
    try:
        return [{"role": str(turn["role"]), "content": turn["content"] or ""} for turn in turns]
    except (TypeError, KeyError) as error:
        raise UserError(f"{row_id}: expected messages with role and content, found {str(turns)[:80]}") from error


def empty_part(task: Task, record: Mapping[str, Any]) -> str | None:
    """The part of a record that is empty but must not be: `prompt`, `completion` or `message`; else None."""
    if "messages" in record:
        turns = record["messages"]
        has_assistant = any(turn["role"] == "assistant" for turn in turns)
        return None if has_assistant and all(turn["content"].strip() for turn in turns) else "message"
    if not record["completion"].strip():
        return "completion"
    needs_prompt = task.template is not None and any(task.template.prompts.values())
    return "prompt" if needs_prompt and not record["prompt"].strip() else None


def label_text(task: Task, label: Any, *, row_id: str) -> str:
    """Raises UserError for an undeclared label; -1 means that the labels of the split are hidden."""
    threshold = task.threshold if isinstance(task, EvalSet) else None
    number: Any = label
    if threshold is not None:
        number = int(label > threshold) if isinstance(label, int | float) and label >= 0 else None
    if number not in task.labels:
        hidden = " (-1: the labels of this split are hidden; use a labelled split)" if label == -1 else ""
        expected = f"a score to compare with {threshold}" if threshold is not None else f"one of {sorted(task.labels)}"
        raise UserError(f"{row_id}: label {label!r}{hidden}; expected {expected}")
    return task.labels[number]
