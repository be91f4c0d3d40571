"""Read a study file and check it: all problems are reported together, each with its line."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from open_instruct.checkpoints.families import EMBEDDED, curve_family, family_named, step_name, step_order
from open_instruct.checkpoints.family import ALL, MAIN
from open_instruct.checkpoints.selection import parse_tokens
from open_instruct.common import paths, ranges
from open_instruct.common.errors import UserError, nearest
from open_instruct.common.yaml_files import compose
from open_instruct.common.yaml_schema import Validator, join
from open_instruct.data.registry import read_datasets
from open_instruct.study.chosen_checkpoints import FamilyConfig, StageConfig, numbers
from open_instruct.study.config import STAGES, RecipeConfig, Resources, Study
from open_instruct.study.overrides import override, pop, share_options
from open_instruct.tasks.declarations import ITEM_METRICS

DISTINCT = ("lr", "epochs", "rows", "batch_size", "adapter", "seeds", "runs", "formats", "shots", "tasks")
NOT_EMPTY = ("rows", "batch_size", "adapter", "formats", "shots", "tasks")
METRICS = (*dict.fromkeys(chain.from_iterable(ITEM_METRICS.values())), "macro_f1", "acc")
"""Of evaluation sets; `acc` is the suite's."""
SLURM_TIME = re.compile(r"\d+|(\d+-)?\d{1,2}(:\d{2}){0,2}")
SLURM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,+-]*")
SBATCH_OPTION = re.compile(r"--[a-z][a-z-]*(=[A-Za-z0-9_.,:/@%+=\[\]&|*()-]+)?")
PLANNED_OPTIONS = ("array", "dependency", "job-name", "output", "error", "wrap", "hold", "parsable", "wait", "export")
"""Options of sbatch that the plan sets."""


def load_study(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Read and check a study file.  overrides: `key=value`, in place of its own.

    Raises UserError with every problem, a line each.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such study; {paths.REPOSITORY / 'scripts' / 'studies'} has some")
    datasets, root, validator = read_datasets(path), compose(path), Validator(path)
    has_datasets = pop(root, "datasets") is not None
    override(root, overrides)
    share_options(root)
    study = validator.parse_dataclass(Study, root, "")
    if isinstance(study, Study):
        study = dataclasses.replace(study, file=path, overrides=tuple(overrides))
        study = dataclasses.replace(study, datasets=datasets, has_datasets=has_datasets)
        check_values(study, "", validator)
        check_names(study, validator)
        check_models(study, validator)
        check_claims(study, validator)
        for stage, resources in study.resources.items():
            check_resources(f"resources.{stage}", resources, validator)
    validator.raise_errors()
    study = with_registered_recipes(study, validator)
    check_model_ids(study, validator)
    validator.raise_errors()
    return study


def with_registered_recipes(study: Study, validator: Validator) -> Study:
    """Fill in epochs and learning rates that recipes leave to the registry."""
    filled: dict[str, RecipeConfig] = {}
    for name, recipe in study.train_sets.items():
        registered = study.datasets.train_set(name)
        epochs = recipe.epochs or ((registered.epochs,) if registered.epochs else ())
        lr = recipe.lr or ((registered.lr,) if registered.lr else ())
        missing = [key for key, values in (("epochs", epochs), ("lr", lr)) if not values]
        if missing:
            validator.error(f"train_sets.{name}", f"expected {' and '.join(missing)}: {name} has no registered recipe")
        filled[name] = dataclasses.replace(recipe, epochs=epochs, lr=lr)
    return dataclasses.replace(study, train_sets=filled)


def check_values(config: Any, key: str, validator: Validator) -> None:
    """Numbers out of range, and lists that are empty or repeat a value, at every level of a study."""
    for name, value in vars(config).items():
        child_key = join(key, name)
        if dataclasses.is_dataclass(value):
            check_values(value, child_key, validator)
        elif isinstance(value, dict):
            for entry, child in value.items():
                if dataclasses.is_dataclass(child):
                    check_values(child, join(child_key, entry), validator)
        else:
            check_value(name, value if isinstance(value, tuple) else (value,), child_key, validator)


def check_value(name: str, values: tuple[Any, ...], key: str, validator: Validator) -> None:
    if found := ranges.problem(name, values):
        validator.error(key, found)
    if name in DISTINCT and len(set(values)) < len(values):
        validator.error(key, f"expected each once, found {list(values)}")
    if name in NOT_EMPTY and not values:
        validator.error(key, "expected at least one")


def check_names(study: Study, validator: Validator) -> None:
    check(validator, "name", paths.safe_name, study.name)
    if study.name in paths.NOT_STUDIES:
        validator.error("name", f"{study.name} is a folder that belongs to no study; expected another name")
    if not study.evaluation and not study.suite:
        validator.error("evaluation", "expected at least one evaluation set, or a suite; else nothing is measured")
    for name in study.train_sets:
        check(validator, f"train_sets.{name}", study.datasets.train_set, name)
    for name, config in study.evaluation.items():
        check(validator, f"evaluation.{name}", study.datasets.eval_set, name)
        known = study.datasets.eval_sets[name].template.prompts if name in study.datasets.eval_sets else config.formats
        for task_format in config.formats:
            check_known(validator, f"evaluation.{name}.formats", "format", task_format, known)
    if study.accelerate_config and not (paths.REPOSITORY / study.accelerate_config).is_file():
        validator.error("accelerate_config", f"{study.accelerate_config}: no such file; see scripts/accelerate/")
    for stage in study.resources:
        check_known(validator, f"resources.{stage}", "stage", stage, STAGES)
    for name in study.suite.train_sets if study.suite else ():
        if name not in study.train_sets:
            nearby = nearest(name, study.train_sets)
            validator.error("suite.train_sets", f"{name} is not among the train_sets of this study ({nearby})")


def check(validator: Validator, key: str, lookup: Callable[[str], object], name: str) -> None:
    """Note the message of the UserError that `lookup` raises for an unknown name."""
    try:
        lookup(name)
    except UserError as error:
        validator.error(key, str(error))


def check_known(validator: Validator, key: str, kind: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        validator.error(key, f"unknown {kind} {name} ({nearest(name, known)})")


def check_models(study: Study, validator: Validator) -> None:
    if bool(study.family) == bool(study.families):
        validator.error("families" if study.families else "", "expected either family and steps, or families")
    configs: dict[str, FamilyConfig] = {}
    check(validator, "families", lambda _: configs.update(study.family_configs()), "")
    for family, config in configs.items():
        is_single = family == study.family
        place = ("family", "") if is_single else (f"families.{family}",) * 2
        check(validator, place[0], family_named, family)
        if config.steps or config.tokens or not config.stages:
            check_chosen(config, place[1], validator)
        for name, own in config.stages.items():
            check_chosen(own, join(place[1], f"stages.{name}"), validator)
        if family == EMBEDDED and (config.runs or config.tokens or config.stages or {None, ALL} & set(config.steps)):
            validator.error(join(place[1], "steps"), f"{EMBEDDED} has numbers of steps only; `pretrain` sets its seeds")
    if not validator.errors:
        place = "steps" if study.family else "families"
        check(validator, place, lambda _: [one.folder for one in study.checkpoints()], "")
    if study.pretrain and study.pretrain.seeds and "pretrain.seed" in validator.lines:
        validator.error("pretrain.seed", "is one of the runs' seeds, and `seeds` is given, too; keep one of the two")
    if study.pretrain and EMBEDDED not in configs:
        validator.error("pretrain", f"is for family {EMBEDDED} only, which this study has not")


def check_chosen(config: StageConfig, key: str, validator: Validator) -> None:
    """The checkpoints of one stage: by ascending steps, or by ascending numbers of tokens."""
    for run in config.runs:
        check(validator, join(key, "runs"), paths.safe_name, run)
    if config.tokens and config.steps:
        validator.error(join(key, "tokens"), "expected steps or tokens, found both")
    elif config.tokens:
        check(validator, join(key, "tokens"), lambda _: require_ascending(config.tokens), "")
    elif config.steps != (ALL,):
        steps = list(numbers(config.steps))
        is_ordered = steps == sorted(set(steps), key=step_order) and len(steps) == len(config.steps)
        if not is_ordered or not steps or any(step is not None and step < 0 for step in steps):
            found = ", ".join(step if isinstance(step, str) else step_name(step) for step in config.steps)
            expected = f"expected ascending numbers, each once, {MAIN} last, or {ALL}"
            validator.error(join(key, "steps"), f"{expected}; found {found}")


def require_ascending(tokens: Sequence[str]) -> None:
    numbers = parse_tokens(tokens)
    if list(numbers) != sorted(numbers):
        raise UserError(f"tokens: expected ascending numbers, found {', '.join(tokens)}")


def check_claims(study: Study, validator: Validator) -> None:
    """The primary claim is about models and evaluations of the study, and margins are of known metrics."""
    if primary := study.primary:
        suite_tasks = study.suite.tasks if study.suite else ()
        checkpoints = [] if validator.errors else study.checkpoints()
        of_claim = [one for one in checkpoints if primary.family in (None, curve_family(one.family, one.stage))]
        steps = [step_name(one.step) for one in of_claim]
        families = list(dict.fromkeys(curve_family(one.family, one.stage) for one in checkpoints))
        if primary.family is None and len(families) > 1:
            validator.error("primary", f"expected its family, one of {', '.join(families)}: a claim is about one")
        for key, kind, known in (
            ("family", "family", families),
            ("train_set", "train set", study.train_sets),
            ("eval_set", "evaluation set", (*study.evaluation, *suite_tasks)),
            ("metric", "metric", METRICS),
            ("checkpoint", "checkpoint", steps),
        ):
            value = getattr(primary, key)
            if value is not None and str(value) not in known:
                nearby = nearest(str(value), known)
                validator.error(f"primary.{key}", f"{kind} {value} is not among those of this study ({nearby})")
    for metric, margin in study.margins.items():
        check_known(validator, f"margins.{metric}", "metric", metric, METRICS)
        if not 0 < margin < math.inf:
            validator.error(f"margins.{metric}", f"expected a number above 0, found {margin}")


def check_resources(key: str, resources: Resources, validator: Validator) -> None:
    if resources.time is not None and not SLURM_TIME.fullmatch(resources.time):
        validator.error(f"{key}.time", f'expected e.g. "08:00:00" or "1-12:00:00" in quotes, found {resources.time!r}')
    for name in ("partition", "account", "qos"):
        value = getattr(resources, name)
        if value is not None and not SLURM_NAME.fullmatch(value):
            validator.error(f"{key}.{name}", f"expected a name in Slurm, found {value!r}")
    for option in resources.sbatch:
        if not SBATCH_OPTION.fullmatch(option):
            validator.error(f"{key}.sbatch", f"expected one option a string, like --constraint=a100; found {option!r}")
        elif option[2:].split("=")[0] in PLANNED_OPTIONS:
            validator.error(f"{key}.sbatch", f"{option.split('=')[0]} is set by the plan")


def check_model_ids(study: Study, validator: Validator) -> None:
    counts = Counter(variant.model_id for variant in study.variants())
    if repeated := [model_id for model_id, count in counts.items() if count > 1]:
        validator.error("train_sets", f"two runs would have one name: {', '.join(repeated[:3])}")
