"""One row of every dataset in every format by both protocols equals `golden/formats.txt`, byte for byte.

The file is readable: prompt and completion are in [[ ]], so that white space at their ends is visible. After an
intended change, `python tests/tasks/test_golden.py` (from the repository) writes it again; read its diff.
"""

from pathlib import Path

import toy_datasets

from open_instruct.data.formatting import for_settings
from open_instruct.data.prompts import render
from open_instruct.data.settings import DataSettings
from open_instruct.tasks import EVAL_SETS, PROTOCOLS, TRAIN_SETS
from open_instruct.tasks.declarations import EvalSet, TrainSet

GOLDEN = Path(__file__).parent / "golden" / "formats.txt"
ROWS = {
    "hellaswag_endings": {"query": "A dog sees a cat. The dog", "gold_choice": "runs after it.", "subject": "Dogs"},
    "qa_chat": {"query": "Question: Where do cats sleep?\nAnswer:", "gold_choice": "on mats"},
    "heldout_text": {"text": "Cats sleep on mats.\n\nDogs do not.", "subject": "Cats"},
    "heldout_scenes": {"text": "Catching mice: A cat sits by a wall. It waits.", "subject": "Catching mice"},
    "llmbar": {"input": "Count to two.", "output_1": "1, 2", "output_2": "one", "label": 1},
}


def row_of(task: EvalSet | TrainSet) -> dict:
    split = task.split if isinstance(task, EvalSet) else task.splits[0]
    name = "llmbar" if task.name.startswith("llmbar") else task.name
    return ROWS[name] if name in ROWS else toy_datasets.rows(split)[1]


def blocks():
    """The text of each data set, format and protocol."""
    for task in (*TRAIN_SETS.values(), *EVAL_SETS.values()):
        kind = "train" if isinstance(task, TrainSet) else "evaluation"
        for protocol in PROTOCOLS:
            evaluated = for_settings(task, DataSettings(protocol=protocol)) if isinstance(task, EvalSet) else task
            is_train = isinstance(task, TrainSet) or task.template is None
            for task_format in ("default",) if is_train else task.template.prompts:
                record = render(
                    evaluated,
                    row_of(evaluated),
                    row_id=f"{task.name}-1",
                    task_format=task_format,
                    protocol=protocol,
                    allow_unlabelled=True,
                )
                yield f"=== {kind} {task.name}, {task_format}, {protocol}\n{as_text(record)}\n"


def as_text(record: dict) -> str:
    if "messages" in record:
        return "\n".join(f"{turn['role']} [[{turn['content']}]]" for turn in record["messages"])
    return f"[[{record['prompt']}]][[{record['completion']}]]"


def test_every_format_of_every_dataset_equals_the_golden_file():
    expected = GOLDEN.read_text(encoding="utf-8").split("\n=== ")
    found = "\n".join(blocks()).split("\n=== ")
    assert [block for block in found if block not in expected] == []
    assert found == expected


if __name__ == "__main__":
    GOLDEN.write_text("\n".join(blocks()), encoding="utf-8")
