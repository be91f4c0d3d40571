"""A row of a dataset as prompt and completion, in one of the formats."""

from collections.abc import Mapping
from typing import Any

from open_instruct.records import UserError
from open_instruct.tasks.declarations import EvalSet, TrainSet


def render(task: EvalSet | TrainSet, row: Mapping[str, Any], *, row_id: str, task_format: str = "default") -> dict:
    """The record of one row: {"dataset", "id", "prompt", "completion"}, or "messages" for a chat train set.

    The prompt ends without white space and the completion begins with its one space.
    Raises UserError for a hidden or unknown label, and for an empty completion.
    """
    values = {field: str(row[column]).strip() for field, column in task.fields.items()}
    if isinstance(task, EvalSet) and task.labels:
        values["label"] = label_word(task, row[task.fields["label"]], row_id=row_id)
    prompt = task.template.prompts[task_format].format(**values).strip()
    completion = task.template.completion.format(**values).strip()
    if not completion:
        raise UserError(f"{row_id}: empty completion; expected text in {', '.join(task.fields.values())}")
    record = {"dataset": task.name, "id": row_id}
    if isinstance(task, TrainSet) and task.chat:
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
        return record | {"messages": turns}
    return record | {"prompt": prompt, "completion": f" {completion}" if prompt else completion}


def label_word(task: EvalSet, label: Any, *, row_id: str) -> str:
    """Raises UserError for a label that the task does not name; -1 means that the split's labels are hidden."""
    if label not in task.labels:
        hidden = " (-1: the labels of this split are hidden; use a labelled split)" if label == -1 else ""
        raise UserError(f"{row_id}: label {label!r}{hidden}; expected one of {sorted(task.labels)}")
    return task.labels[label]
