"""The task registry: what is trained on and evaluated on, as data. One short module per task family.

To add a task, add a declaration to the module of its family (or a new module, named in FAMILY_MODULES below).
"""

from open_instruct.cli import nearest
from open_instruct.records import UserError
from open_instruct.tasks import continuation, instruction, nli, paraphrase, pretraining_text, question_generation
from open_instruct.tasks.declarations import EvalSet, TrainSet

FORMATS = ("default", "instruct", "inputoutput")
PROTOCOLS = ("corrected",)
FAMILY_MODULES = (question_generation, continuation, nli, paraphrase, instruction, pretraining_text)

TRAIN_SETS: dict[str, TrainSet] = {t.name: t for module in FAMILY_MODULES for t in module.TRAIN_SETS}
EVAL_SETS: dict[str, EvalSet] = {e.name: e for module in FAMILY_MODULES for e in module.EVAL_SETS}


def train_set_named(name: str) -> TrainSet:
    """Raises UserError, with the nearest known names, where there is none."""
    if name not in TRAIN_SETS:
        raise UserError(f"unknown train set {name} ({nearest(name, TRAIN_SETS)})")
    return TRAIN_SETS[name]


def eval_set_named(name: str) -> EvalSet:
    """Raises UserError, with the nearest known names, where there is none."""
    if name not in EVAL_SETS:
        raise UserError(f"unknown evaluation set {name} ({nearest(name, EVAL_SETS)})")
    return EVAL_SETS[name]
