"""Render a row of a dataset as prompt and completion, in one of the formats, by one of the protocols."""

from collections.abc import Mapping
from typing import Any

from open_instruct.common.errors import UserError
from open_instruct.common.hashing import digest
from open_instruct.data.train_records import ROLES
from open_instruct.tasks.declarations import EvalSet, TrainSet

Task = EvalSet | TrainSet
LONGEST_CLUSTER = 64
"""Characters of what says which items belong together; a longer text is replaced by its hash."""


class RowError(UserError):
    """A row does not fit its set's declaration; the message begins with the row's id, which counts from 0."""


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
    missing = [column for column in columns_of(task) if column not in row and column.partition(".")[0] not in row]
    if missing:
        raise RowError(f"{row_id}: no column {', '.join(missing)}; found {', '.join(row)}")
    record = {"dataset": task.name, "id": row_id}
    if task.template is None:
        return record | {"messages": messages(row[task.fields["messages"]], row_id=row_id)}
    values = {
        field: text_at(row, column, row_id=row_id)
        for field, column in task.fields.items()
        if field != "label" or not task.labels
    }
    if task.labels:
        label = value_at(row, task.fields["label"])
        is_unlabelled = allow_unlabelled and (label is None or label == -1)
        values["label"] = label_text(task, next(iter(task.labels)) if is_unlabelled else label, row_id=row_id)
    if isinstance(task, EvalSet) and task.cluster:
        record["cluster"] = cluster_of(task, row, row_id=row_id)
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


def cluster_of(task: EvalSet, row: Mapping[str, Any], *, row_id: str) -> str:
    """What is equal for items that belong together: the value of their column, or its hash where it is a long text.

    An item without a passage belongs to no other one. Raises UserError where a column of another kind is empty.
    """
    column = task.cluster or ""
    value = text_at(row, column, row_id=row_id)
    if not value and column in task.fields.values():
        return row_id
    if not value:
        raise RowError(f"{row_id}: column {column} is empty; expected what says which items belong together")
    return value if len(value) <= LONGEST_CLUSTER else digest(value)[:16]


def columns_of(task: Task) -> list[str]:
    """The columns of a row that a task needs, each once."""
    cluster = task.cluster if isinstance(task, EvalSet) else None
    return list(dict.fromkeys([*task.fields.values(), *([cluster] if cluster else [])]))


def value_at(row: Mapping[str, Any], column: str) -> Any:
    """The value in a column; `Answer.0` is the first entry of the list `Answer`, `meta.title` a key of `meta`."""
    name, _, inner = column.partition(".")
    if column in row or not inner:
        return row[column]
    value = row[name]
    if isinstance(value, list) and inner.isdecimal():
        return value[int(inner)] if len(value) > int(inner) else None
    return value.get(inner) if isinstance(value, Mapping) else None


def text_at(row: Mapping[str, Any], column: str, *, row_id: str) -> str:
    """The text in a column, or a number as text. A missing value is empty text.

    Raises UserError for lists, mappings and other values that have no text of their own.
    """
    value = value_at(row, column)
    if isinstance(value, str):
        return value
    if value is None or value != value:  # NaN is how data frames write a missing value
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    cure = f"; `{column}.0` is its first entry" if isinstance(value, list) else ""
    cure = f"; `{column}.KEY` is one of its values" if isinstance(value, Mapping) else cure
    raise RowError(f"{row_id}: column {column} holds {str(value)[:60]!r}, a {type(value).__name__}, not text{cure}")


def messages(turns: Any, *, row_id: str) -> list[dict[str, str]]:
    """Raises UserError for turns that are not a list of {"role", "content"} with text."""
    try:
        found = [{"role": turn["role"], "content": turn["content"] or ""} for turn in turns]
    except (TypeError, KeyError) as error:
        raise RowError(f"{row_id}: expected messages with role and content, found {str(turns)[:80]}") from error
    for turn in found:
        if not all(isinstance(value, str) for value in turn.values()):
            raise RowError(f"{row_id}: expected text as role and content of each message, found {str(turn)[:80]}")
        if turn["role"] not in ROLES:
            raise RowError(f"{row_id}: role {turn['role'][:60]!r} of a message; expected {', '.join(ROLES)}")
    return found


def empty_part(task: Task, record: Mapping[str, Any]) -> str | None:
    """What is empty or lacks in a record but must not: `prompt`, `completion`, `message`, an assistant's; else None."""
    if "messages" in record:
        turns = record["messages"]
        roles = dict.fromkeys(turn["role"] for turn in turns)
        if "assistant" not in roles:
            return f"no message of the role assistant, found roles {', '.join(roles) or 'none'}"
        return None if all(turn["content"].strip() for turn in turns) else "message"
    if not record["completion"].strip():
        return "completion"
    needs_prompt = task.template is not None and any(task.template.prompts.values())
    return "prompt" if needs_prompt and not record["prompt"].strip() else None


def label_text(task: Task, label: Any, *, row_id: str) -> str:
    """Raises UserError for an undeclared label; -1 means that the labels of the split are hidden."""
    threshold = task.threshold if isinstance(task, EvalSet) else None
    key: Any = label
    if threshold is not None:
        key = int(label > threshold) if isinstance(label, int | float) and label >= 0 else None
    elif isinstance(next(iter(task.labels)), str):
        key = written_label(label)
    if isinstance(key, bool | list | dict) or key not in task.labels:
        hidden = " (-1: the labels of this split are hidden; use a labelled split)" if label == -1 else ""
        expected = f"a score to compare with {threshold}" if threshold is not None else f"one of {list(task.labels)}"
        raise RowError(f"{row_id}: label {label!r}{hidden}; expected {expected}")
    return task.labels[key]


def written_label(label: Any) -> str | None:
    """A raw label as a datasets file writes it: 0, 0.0 and "0" are `0`, True is `true`."""
    if isinstance(label, bool):
        return str(label).lower()
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    return str(label) if isinstance(label, str | int | float) else None
