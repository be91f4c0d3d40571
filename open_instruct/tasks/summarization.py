"""Summarization: an article to one sentence (XSum, in domain; XL-Sum) or to highlights (CNN/DailyMail)."""

from functools import partial

from open_instruct.tasks.declarations import EvalSet, Template, TrainSet, with_trailing_space
from open_instruct.tasks.hub import CNN, XLSUM, XSUM

PROMPTS = {
    "default": "### Input: {document}\n ### Summary:",
    "instruct": "Please read the following text: {document} Provide a summary:",
    "inputoutput": "{document}",
}
SUMMARY = Template(PROMPTS, "{summary}", with_trailing_space(PROMPTS))
SummarySet = partial(EvalSet, kind="generation", template=SUMMARY)
XSUM_FIELDS = {"document": "document", "summary": "summary"}
XSUM_TRAIN = XSUM(files="data/train-*.parquet", num_rows=204_045)

TRAIN_SETS = [TrainSet("xsum", SUMMARY, XSUM_FIELDS, splits=(XSUM_TRAIN,), lr=2e-7, epochs=3)]
EVAL_SETS = [
    SummarySet(
        "xsum",
        fields=XSUM_FIELDS,
        split=XSUM(files="data/test-*.parquet", num_rows=11_334),
        exemplars=XSUM_TRAIN,
        role="in-domain of xsum",
    ),
    SummarySet(
        "xlsum",
        fields={"document": "text", "summary": "summary"},
        split=XLSUM(files="english/test/*.parquet", num_rows=11_535),
        exemplars=XLSUM(files="english/train/*.parquet", num_rows=306_522),
        role="out-of-domain of xsum",
    ),
    SummarySet(
        "cnn",
        fields={"document": "article", "summary": "highlights"},
        split=CNN(files="3.0.0/test-*.parquet", num_rows=11_490),
        exemplars=CNN(files="3.0.0/train-*.parquet", num_rows=287_113),
        role="out-of-domain of xsum",
    ),
]
