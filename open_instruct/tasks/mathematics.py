"""Mathematics: GSM8K's word problems; the solution is generated, and its final number is compared. Not in the paper."""

from open_instruct.tasks.declarations import EvalSet, Template, TrainSet, with_trailing_space
from open_instruct.tasks.hub import GSM8K

PROMPTS = {"default": "Question: {question}\nAnswer:"}

TRAIN_SETS: list[TrainSet] = []
EVAL_SETS = [
    EvalSet(
        "gsm8k",
        "generation",
        # A solution ends in its answer: `… = 72 clips.\n#### 72`.
        Template(PROMPTS, "{answer}", with_trailing_space(PROMPTS)),
        {"question": "question", "answer": "answer"},
        split=GSM8K(files="main/test-*.parquet", num_rows=1_319),
        exemplars=GSM8K(files="main/train-*.parquet", num_rows=7_473),
        role="other",
        primary_metric="exact_match",
        answer="final_number",
        max_new_tokens=512,
    )
]
