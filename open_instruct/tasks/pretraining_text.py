"""Held-out text of the tiny model's pre-training corpus: bits per byte before and after fine-tuning."""

from open_instruct.tasks.declarations import EvalSet, Split, Template, TrainSet

TEXT = Template(prompts={"default": ""}, completion="{text}")

TRAIN_SETS: list[TrainSet] = []
EVAL_SETS = [
    EvalSet(
        "heldout_text",
        "text",
        TEXT,
        {"text": "text"},
        split=Split(num_rows=500, olmo_data="tiny_corpus/heldout"),
        role="pre-training",
    )
]
