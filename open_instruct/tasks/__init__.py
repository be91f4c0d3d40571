"""The task registry: declarations of all train sets and evaluation sets, one short module per task family.

To add a task, add a declaration to the module of its family, or add a module with TRAIN_SETS and EVAL_SETS to this
folder: every module here that has them is read.
"""

from importlib import import_module
from pkgutil import iter_modules

from open_instruct.common.errors import UserError, nearest
from open_instruct.tasks.declarations import EvalSet, TrainSet
from open_instruct.tasks.protocols import PROTOCOLS

__all__ = ["EVAL_SETS", "FORMATS", "PROTOCOLS", "TRAIN_SETS", "eval_set_named", "train_set_named"]

FORMATS = ("default", "instruct", "inputoutput")
MODULES = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]


def named(kind: str) -> dict:
    """name -> declaration, from the list `kind` of every module.  Raises UserError for a name declared twice."""
    found = {}
    for module in MODULES:
        for task in getattr(module, kind, ()):
            if task.name in found:
                raise UserError(f"{task.name} is declared twice in {kind}, the second time in {module.__name__}")
            found[task.name] = task
    return found


TRAIN_SETS: dict[str, TrainSet] = named("TRAIN_SETS")
EVAL_SETS: dict[str, EvalSet] = named("EVAL_SETS")


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
