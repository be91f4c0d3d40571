"""Held-out text of the tiny model's pre-training corpus, by source: bits per byte before and after fine-tuning."""

from open_instruct.tasks.declarations import EvalSet, Split, Template, TrainSet

TEXT = Template(prompts={"default": ""}, completion="{text}")

TRAIN_SETS: list[TrainSet] = []
EVAL_SETS = [
    EvalSet(
        "heldout_text",
        "text",
        TEXT,
        {"text": "text"},
        split=Split(num_rows=500, olmo_data="tiny_corpus/heldout_passages"),
        role="pre-training",
        cluster="subject",
    ),
    # HellaSwag's scenes with their endings: what a model gains on them by hellaswag_endings is no lack of forgetting.
    EvalSet(
        "heldout_scenes",
        "text",
        TEXT,
        {"text": "text"},
        split=Split(num_rows=500, olmo_data="tiny_corpus/heldout_scenes"),
        role="own text of hellaswag_endings",
        cluster="subject",
    ),
]
