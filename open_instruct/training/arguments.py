"""Arguments of a fine-tuning run, which of them affect the trained weights, and their validation."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from open_instruct.common.errors import UserError
from open_instruct.study.variants import DEFAULT_SEED
from open_instruct.training.steps import MicroBatchLimits


@dataclass(frozen=True)
class Args:
    model_name_or_path: str
    """Folder of the model in transformers format, or its name on the Hub: owner/repository[/folder]."""
    train_file: Path
    """Records made by format_generalization.py."""
    learning_rate: float
    """Peak learning rate, reached after warm-up."""
    num_train_epochs: int = 3
    max_train_steps: int | None = None
    """Number of optimiser steps; overrides num_train_epochs (the schedule ends there too)."""
    output_dir: Path | None = None
    """Default: output/{model_id}, named from the checkpoint, the train set and the recipe."""
    validation_file: Path | None = None
    """Records whose loss is logged before training and after each epoch."""
    early_stopping_patience: int | None = None
    """Stop after this many epochs without a lower validation loss, and keep the weights with the lowest."""
    max_train_rows: int | None = None
    """Train on this many rows from the beginning of the file (None: all)."""
    num_validation_rows: int = 0
    """Hold back this many rows from the end of the train file, instead of a validation file."""
    total_batch_size: int | None = None
    """Examples per optimiser step, over all processes.
    Default: per_device_train_batch_size x gradient_accumulation_steps x processes where these are given, else 8."""
    per_device_train_batch_size: int | None = None
    """Most examples in one forward pass of a process (None: limited by max_tokens_per_batch); affects no result."""
    gradient_accumulation_steps: int | None = None
    """Together with per_device_train_batch_size, another way to set total_batch_size."""
    max_tokens_per_batch: int = 16_384
    """Most tokens, including padding, in one forward pass of a process; affects no result."""
    packing: bool = False
    """Concatenate examples instead of padding them; each attends to itself only, so this affects no result."""
    max_seq_length: int = 2048
    """Longest example in tokens; a longer one loses the beginning of its prompt, never its completion."""
    preprocessing_num_workers: int = 1
    """Processes that tokenise."""
    config_name: str | None = None
    """Folder or Hub name of another config.json (None: the model's)."""
    tokenizer_name: str | None = None
    """Folder or Hub name of another tokenizer (None: the model's)."""
    model_revision: str | None = None
    """Branch, tag or commit of a model of the Hub."""
    lr_scheduler_type: Literal["linear", "cosine", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"] = (
        "linear"
    )
    warmup_ratio: float = 0.03
    """Share of the steps in which the learning rate rises from 0."""
    weight_decay: float = 0.0
    """Of matrices; biases and norms have none."""
    max_grad_norm: float = 1.0
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """`bf16` is the study's setting on a GPU; on a CPU without bf16 instructions it is slower than `no`."""
    gradient_checkpointing: bool = False
    """Recompute activations instead of storing them: less memory, a third more computation."""
    use_lora: bool = False
    """Train low-rank adapters of all linear layers instead of all weights."""
    lora_rank: int = 64
    lora_alpha: int = 16
    lora_dropout: float = 0.1
    keep_weights: Literal["full", "lora", "none"] = "full"
    """`full`: a whole model (adapters merged); `lora`: the adapter only; `none`: remove the weights after `then`."""
    then: tuple[str, ...] = ()
    """Python command lines (script and arguments) to run on the finished model, e.g. its evaluations."""
    checkpointing_steps: str = "epoch"
    """When to save a state to resume from: `epoch`, a number of steps, or `never`. Signals save one in any case."""
    resume_from_checkpoint: str = "auto"
    """`auto`: from the last state of this same run; `no`: start over; or the folder of a state."""
    stop_file: Path | None = None
    """Save the state and stop when this file appears: for launchers that do not forward signals."""
    seed: int = DEFAULT_SEED
    """Of the order of examples, the initial adapters, dropout."""
    logging_steps: int = 1
    """Number of steps in one line of the log; its loss is their mean."""
    with_tracking: bool = False
    """Also send the log to `report_to`."""
    report_to: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    push_to_hub: str | None = None
    """Publish the finished model as this repository of the Hub (login: `hf auth login`)."""
    check_memory: bool = True
    """Refuse to start where the memory estimate exceeds the free memory."""
    overwrite: bool = False
    """Train again where other arguments made the output."""

    @property
    def half_precision(self) -> bool:
        return self.mixed_precision != "no"

    @property
    def micro_batch_limits(self) -> MicroBatchLimits:
        return MicroBatchLimits(self.max_tokens_per_batch, self.per_device_train_batch_size, self.packing)


WITHOUT_EFFECT_ON_WEIGHTS = (
    "model_name_or_path",
    "train_file",
    "validation_file",
    "output_dir",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_tokens_per_batch",
    "packing",
    "preprocessing_num_workers",
    "config_name",
    "tokenizer_name",
    "model_revision",
    "gradient_checkpointing",
    "checkpointing_steps",
    "resume_from_checkpoint",
    "stop_file",
    "logging_steps",
    "with_tracking",
    "report_to",
    "push_to_hub",
    "check_memory",
    "overwrite",
)
"""File locations (the content of the files is recorded as an input), sizes of micro-batches, logging."""


COUNTS = (
    "num_train_epochs",
    "max_train_steps",
    "total_batch_size",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_tokens_per_batch",
    "max_seq_length",
    "logging_steps",
    "lora_rank",
    "preprocessing_num_workers",
)


def training_arguments(args: Args) -> dict:
    """The arguments that affect the output, as the sidecar records them."""
    return {name: value for name, value in asdict(args).items() if name not in WITHOUT_EFFECT_ON_WEIGHTS}


def resolve(args: Args, *, num_processes: int) -> Args:
    """`args` with total_batch_size filled in.  Raises UserError that names every problem."""
    problems = []
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
    if args.checkpointing_steps not in ("epoch", "never") and not args.checkpointing_steps.isdecimal():
        problems.append(
            f"checkpointing_steps is {args.checkpointing_steps!r}; expected epoch, never or a number of steps"
        )
    if not 0 <= args.warmup_ratio <= 1:
        problems.append(f"warmup_ratio is {args.warmup_ratio}; expected a share from 0 to 1")
    if args.learning_rate <= 0:
        problems.append(f"learning_rate is {args.learning_rate}; expected more than 0")
    for name in COUNTS:
        value = getattr(args, name)
        if value is not None and value < 1:
            problems.append(f"{name} is {value}; expected at least 1")
    if problems:
        raise UserError("; ".join(problems))
    return replace(args, total_batch_size=total or 8)
