"""Estimate the cost of a study before it is run: GPU-hours, disk, the critical path.

Training costs 6 floating-point operations a parameter and token, inference 2; a stage that only moves bytes takes their
number at a given rate. Where jobs of a stage have been run, their measured seconds replace the estimate.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from open_instruct.checkpoints.families import EMBEDDED, family_named
from open_instruct.checkpoints.parameter_count import count_parameters
from open_instruct.common import paths
from open_instruct.common.sidecars import read_sidecar, sidecar_path
from open_instruct.study.config import Resources, Study
from open_instruct.study.job import Job, dependencies
from open_instruct.study.job_cache import JobCache
from open_instruct.study.settings import PretrainingOptions
from open_instruct.study.variants import Variant

BYTES_A_PARAMETER = 4
"""Checkpoints, conversions and fine-tuned models are saved in float32."""
BYTES_A_SECOND = 2e8
"""Of downloads and conversions."""
BYTES_AN_ITEM = 2_000
"""Of a prediction with its score."""
START_SECONDS = 30.0
"""Of any job: imports, loading the model."""
DECODING_SLOWDOWN = 20
"""Of a generated token against one of the prompt, as it is limited by memory; measured ratios vary from 5 to 50."""
SUITE_ITEMS = 2_000
"""Of a suite task without a limit."""
SUITE_TOKENS = 400
"""An item: about four continuations, each with its context."""
ROWS_A_SET = 10_000
"""Of a dataset whose number of rows is not declared, until it is formatted."""
ROWS_A_SECOND = 5_000
"""Of formatting."""
GPU_STAGES = ("finetune", "predict", "suite")
"""Take one GPU where the study gives no number."""
ASSUMED_PARAMETERS = 1e9
"""Of a family that does not say."""
KEPT_SHARE = {"full": 1.0, "lora": 0.02, "none": 0.0}
"""Share of a fine-tuned model's bytes that remains on the disk."""


@dataclass(frozen=True)
class Cost:
    seconds: float
    num_gpus: int
    num_bytes: int
    """Written and kept."""


class CostModel:
    def __init__(self, study: Study, *, keep_weights: str = "full") -> None:
        self.study, self.keep_weights = study, keep_weights
        self.variants = {variant.model_id: variant for variant in study.variants()}
        self.by_folder = {str(variant.folder): variant for variant in self.variants.values()}
        files = {name: paths.train_file(name, study.data_settings.suffix) for name in study.train_sets}
        self.tokens = {name: self.tokens_per_row(file) for name, file in files.items()}
        self.counted: dict[Path, int] = {}
        self.declared = {name: family_named(name).num_parameters for name in study.family_configs()}
        self.num_items = {name: self.items(name) for name in study.evaluation}

    def of(self, job: Job, measured: Mapping[str, float] | None = None) -> Cost:
        """`measured`: mean seconds of a job by stage, which replace the estimate."""
        gpus = self.study.resources.get(job.stage, Resources()).gpus
        seconds, num_bytes = self.estimate(job)
        seconds = (measured or {}).get(job.stage, START_SECONDS + seconds)
        return Cost(seconds, int(job.stage in GPU_STAGES) if gpus is None else gpus, round(num_bytes))

    def estimate(self, job: Job) -> tuple[float, float]:
        """Seconds of computation, and bytes that are kept."""
        if job.stage == "download":
            num_bytes = len(job.outputs) * self.assumed_parameters(job.variables["family"]) * BYTES_A_PARAMETER
            return num_bytes / BYTES_A_SECOND, num_bytes
        if job.stage == "pretrain":
            num_bytes = len(job.outputs) * self.assumed_parameters(EMBEDDED) * BYTES_A_PARAMETER
            return 0.0, num_bytes
        if job.stage == "format":
            sets = [self.study.datasets.train_set(name) for name in self.study.train_sets]
            num_rows = sum(one.num_rows or one.sample for one in sets)
            num_rows += sum(self.num_items.values())
            return num_rows / ROWS_A_SECOND, num_rows * self.study.costs.tokens_per_row * 4
        if job.stage == "convert":
            num_bytes = self.parameters(self.variants[job.name]) * BYTES_A_PARAMETER
            return 3 * num_bytes / BYTES_A_SECOND, num_bytes
        if job.stage == "finetune":
            return self.training(self.variants[job.name])
        if job.stage in ("predict", "suite"):
            return self.evaluation(job.stage, self.by_folder[job.variables["model_path"]])
        return 0.0, 0.0

    def training(self, variant: Variant) -> tuple[float, float]:
        name, recipe, parameters = variant.train_set or "", variant.recipe, self.parameters(variant)
        num_rows = recipe.rows or self.study.datasets.train_set(name).sample
        num_tokens = num_rows * (variant.epochs or 1) * self.tokens[name]
        kept = "lora" if recipe.adapter == "lora" and self.keep_weights == "full" else self.keep_weights
        seconds = 6 * parameters * num_tokens / self.study.costs.flop_per_second
        return seconds, parameters * BYTES_A_PARAMETER * KEPT_SHARE[kept]

    def evaluation(self, stage: str, variant: Variant) -> tuple[float, float]:
        tokens_a_second = self.study.costs.flop_per_second / (2 * self.parameters(variant))
        if stage == "suite" and self.study.suite:
            num_items = len(self.study.suite.tasks) * (self.study.suite.limit or SUITE_ITEMS)
            return num_items * SUITE_TOKENS / tokens_a_second, num_items * 100
        num_tokens, num_items = 0, 0
        for name, config in self.study.evaluation.items():
            num_evaluated = self.num_items[name] * len(config.formats)
            generates = self.study.datasets.eval_set(name).kind == "generation"
            new_tokens = self.study.predict.max_new_tokens if generates else 0
            num_tokens += num_evaluated * (self.study.costs.tokens_per_row + new_tokens * DECODING_SLOWDOWN)
            num_items += num_evaluated
        return num_tokens / tokens_a_second, num_items * BYTES_AN_ITEM

    def items(self, name: str) -> int:
        """Items of one evaluation set: of the formatted file where there is one, else as declared."""
        file = paths.evaluation_file(name, suffix=self.study.data_settings.suffix)
        recorded = read_sidecar(file).get("rows") if file.is_file() and sidecar_path(file).is_file() else None
        num_rows = recorded or self.study.datasets.eval_set(name).num_rows or ROWS_A_SET
        return min(self.study.evaluation[name].limit or num_rows, num_rows)

    def parameters(self, variant: Variant) -> float:
        """Parameters of a model: counted in its base model's files where they are there, else assumed."""
        folder = variant.checkpoint.model_folder
        if folder not in self.counted:
            self.counted[folder] = count_parameters(folder)
        return self.counted[folder] or self.assumed_parameters(variant.checkpoint.family)

    def assumed_parameters(self, family: str) -> float:
        if self.study.costs.num_parameters:
            return self.study.costs.num_parameters
        if family == EMBEDDED:
            model = self.study.pretrain or PretrainingOptions()
            return 2 * model.vocab_size * model.d_model + model.num_layers * 12 * model.d_model**2
        return self.declared[family] or ASSUMED_PARAMETERS

    def tokens_per_row(self, file: Path) -> float:
        """Measured on the formatted file where there is one: four bytes are about one token."""
        if not file.is_file() or not sidecar_path(file).is_file():
            return self.study.costs.tokens_per_row
        return file.stat().st_size / max(1, read_sidecar(file).get("rows") or 1) / 4


def measured_seconds(jobs: Sequence[Job], cache: JobCache) -> dict[str, float]:
    """Mean seconds of the finished jobs of each stage."""
    found: dict[str, list[float]] = defaultdict(list)
    for job in jobs:
        if (seconds := cache.seconds(job)) is not None:
            found[job.stage].append(seconds)
    return {stage: mean(seconds) for stage, seconds in found.items()}


def critical_path(jobs: Sequence[Job], costs: Mapping[str, Cost]) -> list[Job]:
    """The chain of jobs that takes longest: it bounds the study's duration on any number of machines."""
    before, best = dependencies(jobs), dict[str, tuple[float, Job | None]]()
    for job in jobs:
        longest = max(before[job.id].values(), key=lambda one: best[one.id][0], default=None)
        best[job.id] = (costs[job.id].seconds + (best[longest.id][0] if longest else 0.0), longest)
    chain, job = list[Job](), max(jobs, key=lambda one: best[one.id][0], default=None)
    while job is not None:
        chain.insert(0, job)
        job = best[job.id][1]
    return chain
