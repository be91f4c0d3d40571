"""Arguments of a fine-tuning run, which of them affect the trained weights, and their validation."""

import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from open_instruct.common import ranges
from open_instruct.common.errors import UserError
from open_instruct.study.settings import DEFAULT_SEED, ExecutionOptions, TrainingOptions, recorded
from open_instruct.study.variants import Recipe
from open_instruct.training.steps import MicroBatchLimits

MixedPrecision = Literal["no", "bf16", "fp16"]


@dataclass(frozen=True)
class Args(TrainingOptions, ExecutionOptions):
    model_name_or_path: str
    """Folder of the model in transformers format, or its name on the Hub: owner/repository[/folder]."""
    train_file: Path
    """Records made by format_generalization.py, or your own (docs/data.md)."""
    learning_rate: float | None = None
    """Peak learning rate, reached after warm-up (default: that of the train set's registered recipe)."""
    num_train_epochs: int | None = None
    """Passes over the train file (default: as registered for the train set, else 3)."""
    output_dir: Path | None = None
    """Default: output/{model_id}, named from the base model, the train set and the recipe."""
    model_name: str | None = None
    """Id of a base model of your own (default: derived from its folder)."""
    validation_file: Path | None = None
    """Records whose loss is logged before training and after each epoch."""
    max_train_rows: int | None = None
    """Train on this many rows from the beginning of the file (default: all)."""
    total_batch_size: int | None = None
    """Examples per optimiser step, over all processes.
    Default: per_device_train_batch_size x gradient_accumulation_steps x processes where these are given, else 8."""
    gradient_accumulation_steps: int | None = None
    """Together with per_device_train_batch_size, another way to set total_batch_size."""
    config_name: str | None = None
    """Folder or Hub name of another config.json (default: the model's)."""
    tokenizer_name_or_path: str | None = None
    """Folder or Hub name of another tokenizer (default: the model's)."""
    model_revision: str | None = None
    """Branch, tag or commit of a model of the Hub, and of `config_name`."""
    tokenizer_revision: str | None = None
    """Branch, tag or commit of a tokenizer of the Hub (default: model_revision)."""
    mixed_precision: MixedPrecision | None = None
    """`bf16` is the study's setting on a GPU; on a CPU without bf16 instructions it is slower than `no`.
    Default: that of `accelerate launch`, without it `no`."""
    use_lora: bool = False
    """Train low-rank adapters of all linear layers instead of all weights."""
    keep_weights: Literal["full", "lora", "none"] = "full"
    """`full`: a whole model (adapters merged); `lora`: the adapter only; `none`: remove the weights after `then`."""
    then: tuple[str, ...] = ()
    """Python command lines (script and arguments) to run on the finished model, e.g. its evaluations."""
    resume_from_checkpoint: str = "auto"
    """`auto`: from the last state of this same run; `no`: start over; or the folder of a state."""
    stop_file: Path | None = None
    """Save the state and stop when this file appears: for launchers that do not forward signals."""
    seed: int = DEFAULT_SEED
    """Of the order of examples, the initial adapters, dropout."""
    with_tracking: bool = False
    """Also send the log to `report_to`."""
    report_to: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    """Trackers that get the log."""
    push_to_hub: str | None = None
    """Publish the finished model as this repository of the Hub (login: `hf auth login`)."""
    overwrite: bool = False
    """Train again where other arguments made the output."""

    @property
    def half_precision(self) -> bool:
        return self.mixed_precision in ("bf16", "fp16")

    @property
    def micro_batch_limits(self) -> MicroBatchLimits:
        return MicroBatchLimits(self.max_tokens_per_batch, self.per_device_train_batch_size, self.packing)

    def recipe(self, data_settings: str) -> Recipe:
        """The part of the output's identity; total_batch_size is resolved.  data_settings: of the train file."""
        return Recipe(
            data_settings=data_settings,
            adapter="lora" if self.use_lora else "full",
            rows=self.max_train_rows,
            batch_size=self.total_batch_size or DEFAULT_BATCH_SIZE,
            mixed_precision=self.mixed_precision or "no",
            is_adapter=self.keep_weights == "lora",
            options=self.relevant(is_lora=self.use_lora),
            seed=self.seed,
        )


DEFAULT_BATCH_SIZE, DEFAULT_EPOCHS = 8, 3
RECORDED = ("learning_rate", "num_train_epochs", "max_train_rows", "total_batch_size", "mixed_precision", "use_lora")
RECORDED += ("keep_weights", "seed")
"""The arguments that affect the weights, beside TrainingOptions."""


def training_arguments(args: Args) -> dict:
    """The arguments that affect the output, as the sidecar records them."""
    arguments = {name: getattr(args, name) for name in RECORDED} | recorded(args.relevant(is_lora=args.use_lora))
    return arguments | ({"then": args.then} if args.keep_weights == "none" else {})


def resolve(args: Args, *, num_processes: int) -> Args:
    """`args` with total_batch_size and mixed_precision filled in.  Raises UserError that names every problem."""
    problems = [*ranges.problems(args), *launcher_problems(args)]
    precision = args.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in get_args(MixedPrecision):
        problems.append(f"mixed_precision of accelerate launch is {precision}; expected no, bf16 or fp16")
    per_device, accumulation, total = (
        args.per_device_train_batch_size,
        args.gradient_accumulation_steps,
        args.total_batch_size,
    )
    if per_device is not None or accumulation is not None:
        product = (per_device or 1) * (accumulation or 1) * num_processes
        if accumulation is not None and total not in (None, product):
            problems.append(
                f"total_batch_size is {total}, but per_device_train_batch_size {per_device or 1} x "
                f"gradient_accumulation_steps {accumulation} x {num_processes} processes = {product}; give one"
            )
        total = total or product
    if found := ranges.problem("total_batch_size", total):
        problems.append(f"total_batch_size: {found}")
    if args.early_stopping_patience is not None and not (args.validation_file or args.num_validation_rows):
        problems.append("early_stopping_patience needs validation_file or num_validation_rows")
    if args.validation_file and args.num_validation_rows:
        problems.append("validation_file and num_validation_rows exclude each other; give one")
    if args.keep_weights == "lora" and not args.use_lora:
        problems.append("keep_weights lora keeps an adapter, and none is trained; add --use_lora")
    if args.keep_weights == "none" and not args.then:
        problems.append("keep_weights none would leave nothing; name the evaluations to run by --then")
    if args.keep_weights == "none" and args.push_to_hub:
        problems.append("keep_weights none leaves nothing to push_to_hub")
    if not re.fullmatch("epoch|never|0*[1-9][0-9]*", args.checkpointing_steps):
        problems.append(
            f"checkpointing_steps is {args.checkpointing_steps!r}; expected epoch, never or a number of steps above 0"
        )
    if args.torch_compile and not any(map(shutil.which, compilers())):
        problems.append("torch_compile needs a C++ compiler, and none is found; install g++, set CXX, or leave it out")
    if problems:
        raise UserError("; ".join(problems))
    return replace(args, total_batch_size=total or DEFAULT_BATCH_SIZE, mixed_precision=precision)


def launcher_problems(args: Args) -> list[str]:
    """Options of `accelerate launch` for DeepSpeed that the run's own options would override."""
    accumulation, clipping = (
        os.environ.get(f"ACCELERATE_{name}", "auto") for name in ("GRADIENT_ACCUMULATION_STEPS", "GRADIENT_CLIPPING")
    )
    problems = []
    if accumulation not in ("auto", "1"):
        problems.append(
            f"gradient_accumulation_steps of accelerate launch is {accumulation}; give it to finetune.py instead"
        )
    if clipping not in ("auto", "none") and float(clipping) != args.max_grad_norm:
        problems.append(f"gradient_clipping of accelerate launch is {clipping}; add --max_grad_norm {clipping}")
    return problems


def compilers() -> list[str]:
    """What torch compiles with: C++ for a CPU, C for a GPU."""
    chosen = [os.environ[name] for name in ("CC", "CXX") if os.environ.get(name)]
    return [*chosen, "g++", "gcc", "clang"]
