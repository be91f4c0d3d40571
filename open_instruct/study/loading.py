"""Read a study file and check it: every problem is named at once, each with its line."""

import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from open_instruct.checkpoints.families import MAIN, family_named, step_name, step_order
from open_instruct.common import paths
from open_instruct.common.errors import UserError, nearest
from open_instruct.common.yaml_schema import Validator, read_yaml
from open_instruct.study.config import STAGES, Recipe, Resources, Study
from open_instruct.tasks import FORMATS, PROTOCOLS, eval_set_named, train_set_named


def load_study(path: Path) -> Study:
    """Read and check a study file.  Raises UserError that names every problem at once, each with its line."""
    if not path.is_file():
        raise UserError(f"{path}: no such study; studies lie in scripts/studies/")
    study, validator = read_yaml(path, Study)
    if isinstance(study, Study):
        check_study(study, validator)
    validator.raise_errors()
    return study


def check_study(study: Study, validator: Validator) -> None:
    """Note everything wrong with a well-formed study."""

    def check(where: str, known: Callable[[], Any]) -> None:
        try:
            known()
        except UserError as error:
            validator.error(where, str(error))

    check("name", lambda: paths.safe_name(study.name))
    check_models(study, validator, check)
    for name, recipe in study.train_sets.items():
        check(f"train_sets.{name}", lambda name=name: train_set_named(name))
        check_recipe(f"train_sets.{name}", recipe, validator)
    for name, plan in study.evaluation.items():
        where = f"evaluation.{name}"
        check(where, lambda name=name: eval_set_named(name))
        for unknown in [f for f in plan.formats if f not in FORMATS]:
            validator.error(f"{where}.formats", f"unknown format {unknown} of {name} ({nearest(unknown, FORMATS)})")
        require(validator, f"{where}.formats", plan.formats, each_once=True)
        require(validator, f"{where}.limit", [plan.limit], at_least=1)
    if study.protocol not in PROTOCOLS:
        validator.error("protocol", f"unknown protocol {study.protocol} ({nearest(study.protocol, PROTOCOLS)})")
    require(validator, "shots", study.shots, at_least=0, each_once=True)
    require(validator, "max_new_tokens", [study.max_new_tokens], at_least=1)
    require(validator, "seed", [study.seed], at_least=0)
    if study.suite:
        require(validator, "suite.tasks", study.suite.tasks, each_once=True)
        require(validator, "suite.limit", [study.suite.limit], at_least=1)
    for name in study.suite.train_sets if study.suite else ():
        if name not in study.train_sets:
            validator.error("suite.train_sets", f"{name} is not trained on ({nearest(name, study.train_sets)})")
    for stage, resources in study.resources.items():
        check_resources(stage, resources, validator)
    if not validator.errors:
        repeated = [name for name, count in Counter(v.model_id for v in study.variants()).items() if count > 1]
        if repeated:
            validator.error("train_sets", f"two runs would have one name: {', '.join(repeated[:3])}")
    require(validator, "costs.flop_per_second", [study.costs.flop_per_second], at_least=1)
    require(validator, "costs.tokens_per_row", [study.costs.tokens_per_row], at_least=1)
    require(validator, "costs.num_parameters", [study.costs.num_parameters], at_least=1)


def check_models(study: Study, validator: Validator, check: Callable[[str, Callable[[], Any]], None]) -> None:
    if bool(study.family) == bool(study.families):
        validator.error("families" if study.families else "", "expected either family and steps, or families")
    for family, steps in study.steps_by_family().items():
        where = "family" if family == study.family else f"families.{family}"
        check(where, lambda family=family: family_named(family))
        ordered = sorted(set(steps), key=step_order)
        if list(steps) != ordered or not steps or any(step is not None and step < 0 for step in steps):
            found = ", ".join(map(step_name, steps))
            where = "steps" if family == study.family else where
            validator.error(where, f"expected ascending numbers, each once, {MAIN} last; found {found}")
    if ("tiny" in study.steps_by_family()) != (study.pretrain is not None):
        validator.error("pretrain", "belongs to family tiny, and only to it")


def check_recipe(where: str, recipe: Recipe, validator: Validator) -> None:
    require(validator, f"{where}.epochs", [recipe.epochs], at_least=1)
    require(validator, f"{where}.lr", recipe.lr, above=0.0, each_once=True)
    require(validator, f"{where}.seeds", recipe.seeds, at_least=0, may_be_empty=True, each_once=True)
    require(validator, f"{where}.batch_size", [recipe.batch_size], at_least=1)
    require(validator, f"{where}.rows", [recipe.rows], at_least=1)


def require(
    validator: Validator,
    where: str,
    values: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    each_once: bool = False,
    may_be_empty: bool = False,
) -> None:
    """Note values out of range, repeated ones and an empty list. None stands for a key that was left out."""
    for value in values:
        too_low = (at_least is not None and value is not None and not at_least <= value < math.inf) or (
            above is not None and value is not None and not above < value < math.inf
        )
        if too_low:
            bound = f"at least {at_least:g}" if at_least is not None else f"above {above:g}"
            validator.error(where, f"expected a number {bound}, found {value}")
    if each_once and len(set(values)) < len(values):
        validator.error(where, f"expected each once, found {list(values)}")
    if not values and not may_be_empty:
        validator.error(where, "expected at least one")


SLURM_TIME = re.compile(r"\d+|(\d+-)?\d{1,2}(:\d{2}){0,2}")


SLURM_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,+-]*")


SBATCH_OPTION = re.compile(r"--[a-z][a-z-]*(=[A-Za-z0-9_.,:/@%+=\[\]&|*()-]+)?")


PLANNED_OPTIONS = ("array", "dependency", "job-name", "output", "error", "wrap", "hold", "parsable", "wait", "export")


def check_resources(stage: str, resources: Resources, validator: Validator) -> None:
    where = f"resources.{stage}"
    if stage not in STAGES:
        validator.error(where, f"unknown stage {stage} ({nearest(stage, STAGES)})")
    require(validator, f"{where}.gpus", [resources.gpus], at_least=0)
    for name in ("cpus", "memory_gb", "throttle"):
        require(validator, f"{where}.{name}", [getattr(resources, name)], at_least=1)
    if resources.time is not None and not SLURM_TIME.fullmatch(resources.time):
        validator.error(
            f"{where}.time", f'expected e.g. "08:00:00" or "1-12:00:00" in quotes, found {resources.time!r}'
        )
    for name in ("partition", "account", "qos"):
        value = getattr(resources, name)
        if value is not None and not SLURM_WORD.fullmatch(value):
            validator.error(f"{where}.{name}", f"expected a name of Slurm's, found {value!r}")
    for option in resources.sbatch:
        if not SBATCH_OPTION.fullmatch(option):
            validator.error(
                f"{where}.sbatch", f"expected one option a string, like --constraint=a100; found {option!r}"
            )
        elif option[2:].split("=")[0] in PLANNED_OPTIONS:
            validator.error(f"{where}.sbatch", f"{option.split('=')[0]} is given by the plan")
