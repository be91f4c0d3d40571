"""The training loop: optimiser steps over fixed sets of examples, with validation, saved states and early stopping."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from open_instruct.common.model_loading import max_positions
from open_instruct.training.arguments import Args
from open_instruct.training.batches import Batch, micro_batches, validation_batches
from open_instruct.training.data import Examples
from open_instruct.training.graphs import AddGradients, GraphedGradients, uses_graphs
from open_instruct.training.linear_gradients import write_linear_gradients
from open_instruct.training.loss import TargetLoss, use_cpu_kernels
from open_instruct.training.model import compile_layers
from open_instruct.training.schedule import make_schedule
from open_instruct.training.state import Progress, SavedAndStoppedError, State, StopRequest
from open_instruct.training.training_log import StepResult, TrainingLog


@dataclass
class Run:
    """Everything that the loop needs, loaded."""

    args: Args
    accelerator: Accelerator
    module: nn.Module
    """TargetLoss, prepared."""
    optimizer: Any
    scheduler: Any
    steps: Sequence[Sequence[int]]
    """Rows of the train set, by optimiser step."""
    train: Examples
    validation: Examples | None
    state: State
    save_best: Callable[[int], None]
    """Save the current weights as the best so far, at that step."""


def prepare(args: Args, accelerator: Accelerator, module: TargetLoss, *, num_steps: int) -> tuple[nn.Module, Any, Any]:
    """Model, optimiser and learning rate schedule, distributed as accelerate is configured."""
    if is_one(accelerator, "cpu"):
        use_cpu_kernels(module)
    # Recent GPUs would take cuDNN's attention, which is compiled anew for every shape of a batch.
    torch.backends.cuda.enable_cudnn_sdp(False)
    if args.torch_compile:
        compile_layers(module.language_model)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": args.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    assert args.learning_rate is not None  # given or registered
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=args.learning_rate, fused=True)
    module, prepared = accelerator.prepare(module, optimizer)
    scheduler = make_schedule(args.lr_scheduler_type, prepared, args.warmup_ratio, num_steps=num_steps)
    accelerator.register_for_checkpointing(scheduler)
    return module, prepared, scheduler


def is_one(accelerator: Accelerator, device_type: str) -> bool:
    """Whether the run has one process, on a device of this type."""
    return accelerator.device.type == device_type and accelerator.distributed_type == DistributedType.NO


def fit(run: Run) -> Progress:
    """Train in place, from the saved state where there is one.  Raises SavedAndStoppedError after a stop request."""
    args, state, num_steps = run.args, run.state, len(run.steps)
    found = state.find(args.resume_from_checkpoint, overwrite=args.overwrite)
    progress = state.restore(found) if found else Progress()
    log = TrainingLog(state.folder, run.accelerator, progress, num_steps=num_steps, every=args.logging_steps)
    if run.validation is not None and progress.step == 0:
        log.write_validation(validation_loss(run, run.validation))
    run.module.train()
    add_gradients = gradient_function(run)
    with StopRequest(run.accelerator, args.stop_file).listening() as stop:
        while progress.step < num_steps and not has_stopped_early(args, progress):
            log.add(optimiser_step(run, progress, add_gradients))
            if run.validation is not None and ends_epoch(run, progress.step):
                validate(run, run.validation, progress, log)
            should_stop = stop.is_received()
            if progress.step < num_steps and (should_stop or should_save(run, progress.step)):
                log.require_finite(run.module)
                saved = state.save(progress)
                if should_stop:
                    stop.confirm(saved)
                    raise SavedAndStoppedError(f"stopped by a signal or file; saved {saved}; start again to resume")
    log.require_finite(run.module)
    log.progress_line.close()
    return progress


def gradient_function(run: Run) -> AddGradients:
    """The function that computes the loss of a micro-batch and adds its gradients to those of the step."""
    accelerator = run.accelerator

    def add_gradients(batch: Batch, num_targets: int | torch.Tensor) -> torch.Tensor:
        with accelerator.autocast():
            loss = run.module(*batch.to(accelerator.device))
        # Data parallelism averages gradients over processes; the loss is a mean over all targets of the step.
        accelerator.backward(loss * accelerator.num_processes / num_targets)
        return loss.detach()

    module: Any = accelerator.unwrap_model(run.module)
    config = module.language_model.config
    # Graphs pad batches further, which the model's own forward pass may not bear.
    if module.shortcut != "none" and uses_graphs(run.args, config, accelerator):
        max_seq = max_positions(config)
        return GraphedGradients(add_gradients, run.module, accelerator.device, max_seq=max_seq)
    if is_one(accelerator, "cuda") and not run.args.torch_compile:
        write_linear_gradients(run.module, {})
    return add_gradients


def optimiser_step(run: Run, progress: Progress, add_gradients: AddGradients) -> StepResult:
    """One step on all processes, added to `progress`."""
    started, accelerator = time.monotonic(), run.accelerator
    rows = run.steps[progress.step]
    num_targets = int(run.train.num_targets[rows].sum())
    batches = list(
        micro_batches(
            [run.train[row] for row in rows],
            run.args.micro_batch_limits,
            num_processes=accelerator.num_processes,
            process_index=accelerator.process_index,
        )
    )
    loss = torch.zeros((), device=accelerator.device)
    for number, batch in enumerate(batches, start=1):
        # Processes exchange gradients once a step, with the last micro-batch.
        is_last = number == len(batches)
        accelerator.sync_gradients = is_last
        with nullcontext() if is_last else accelerator.no_sync(run.module):
            loss += add_gradients(batch, num_targets) / num_targets
    grad_norm = clip_gradients(run)
    run.optimizer.step()
    lr = run.scheduler.get_last_lr()[0]
    run.scheduler.step()
    run.optimizer.zero_grad()
    mean_loss: Any = accelerator.reduce(loss, "sum")
    # Tensors: reading them would make the processor wait for the GPU, which then waits for the next step.
    num_tokens, seconds = int(run.train.lengths[rows].sum()), time.monotonic() - started
    result = StepResult(mean_loss, lr, grad_norm, num_tokens, seconds)
    progress.step += 1
    progress.num_tokens += result.num_tokens
    progress.seconds += result.seconds
    return result


def clip_gradients(run: Run) -> Any:
    """Scale gradients so that their norm is at most max_grad_norm, unless that is 0.

    -> () the norm before, or None where DeepSpeed does not return it
    """
    accelerator, max_norm = run.accelerator, run.args.max_grad_norm or math.inf
    if accelerator.distributed_type != DistributedType.NO or accelerator.scaler is not None:
        return accelerator.clip_grad_norm_(run.module.parameters(), max_norm)
    gradients = [p.grad for p in run.module.parameters() if p.grad is not None]
    if accelerator.device.type == "cuda":
        return clip_inside_optimizer(run.optimizer.optimizer, gradients, max_norm)
    norm = torch.stack([gradient.flatten() @ gradient.flatten() for gradient in gradients]).sum().sqrt()
    if norm > max_norm:
        for gradient in gradients:
            gradient /= norm / max_norm
    return norm


def clip_inside_optimizer(optimizer: Any, gradients: list[torch.Tensor], max_norm: float) -> torch.Tensor:
    """Let a fused optimiser scale the gradients in its next step, which reads them anyway.  -> () their norm"""
    norm = torch.nn.utils.get_total_norm(gradients)
    # Of a tensor: the processor does not wait for the norm.
    optimizer.grad_scale = (norm / max_norm).clamp(min=1.0)
    return norm


def ends_epoch(run: Run, step: int) -> bool:
    """Whether this step contained the last row of an epoch."""
    batch_size = run.args.total_batch_size or 1
    return (step * batch_size) % len(run.train) < batch_size or step == len(run.steps)


def should_save(run: Run, step: int) -> bool:
    every = run.args.checkpointing_steps
    return every != "never" and (ends_epoch(run, step) if every == "epoch" else step % int(every) == 0)


def validate(run: Run, examples: Examples, progress: Progress, log: TrainingLog) -> None:
    """Log the validation loss; with early stopping, save the weights of the best epoch so far."""
    log.finite_results()
    loss = validation_loss(run, examples)
    log.write_validation(loss)
    if run.args.early_stopping_patience is None:
        return
    if progress.best_loss is None or loss < progress.best_loss:
        progress.best_loss, progress.best_step, progress.num_worse = loss, progress.step, 0
        run.save_best(progress.step)
    else:
        progress.num_worse += 1


def has_stopped_early(args: Args, progress: Progress) -> bool:
    return args.early_stopping_patience is not None and progress.num_worse >= args.early_stopping_patience


@torch.no_grad()
def validation_loss(run: Run, examples: Examples) -> float:
    """Nats per target token, the same in all processes."""
    accelerator = run.accelerator
    world, rank = accelerator.num_processes, accelerator.process_index
    batches = list(validation_batches(examples, run.args.micro_batch_limits))
    placeholder = batches[0]._replace(targets=batches[0].targets[:0], places=batches[0].places[:0])
    # All processes run the same number of forward passes.
    batches.extend([placeholder] * (-len(batches) % world))
    total = torch.zeros((), device=accelerator.device)
    run.module.eval()
    for batch in batches[rank::world]:
        with accelerator.autocast():
            total += run.module(*batch.to(accelerator.device))
    run.module.train()
    summed: Any = accelerator.reduce(total, "sum")
    return round(summed.item() / int(examples.num_targets.sum()), 5)
