"""The training loop: optimiser steps over fixed sets of examples, logged, validated, saved, stopped and resumed."""

import json
import resource
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from tqdm import tqdm
from transformers import get_scheduler

from open_instruct.data.encode import IGNORED
from open_instruct.training.arguments import Args
from open_instruct.training.batches import by_length, micro_batches
from open_instruct.training.data import Examples
from open_instruct.training.loss import TargetLoss, spare_memory_traffic
from open_instruct.training.state import Progress, SavedAndStoppedError, State, Stop

LOG_NAME = "training_log.jsonl"


@dataclass
class Run:
    """What a run is made of, once everything is loaded."""

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
    """Save what is trained as it stands at that step."""


def prepare(args: Args, accelerator: Accelerator, module: TargetLoss, *, num_steps: int) -> tuple[nn.Module, Any, Any]:
    """Model, optimiser and schedule as the launcher's configuration wants them."""
    if accelerator.device.type == "cpu" and accelerator.distributed_type == DistributedType.NO:
        spare_memory_traffic(module)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": args.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=args.learning_rate, fused=True)
    module, prepared = accelerator.prepare(module, optimizer)
    scheduler = get_scheduler(
        args.lr_scheduler_type,
        prepared,
        num_warmup_steps=round(args.warmup_ratio * num_steps),
        num_training_steps=num_steps,
    )
    accelerator.register_for_checkpointing(scheduler)
    return module, prepared, scheduler


def fit(run: Run) -> Progress:
    """Train in place.  Raises SavedAndStoppedError when it is asked to stop."""
    args, state = run.args, run.state
    found = state.find(args.resume_from_checkpoint, overwrite=args.overwrite)
    progress = state.restore(found) if found else Progress()
    log = Log(run, progress)
    if run.validation is not None and progress.step == 0:
        log.write({"step": 0, "validation_loss": mean_loss(run, run.validation)})
    run.module.train()
    with Stop(run.accelerator, args.stop_file).listening() as stop:
        while progress.step < len(run.steps) and not has_stopped_early(args, progress):
            log.add(optimiser_step(run, progress))
            if run.validation is not None and ends_epoch(run, progress.step):
                validate(run, progress, log)
            asked = stop.is_asked()
            if progress.step < len(run.steps) and (asked or is_due(run, progress.step)):
                saved = state.save(progress)
                if asked:
                    stop.answer(saved)
                    raise SavedAndStoppedError(f"asked to stop; saved {saved}; start again to go on")
    log.bar.close()
    return progress


@dataclass(frozen=True)
class StepResult:
    loss: float
    """Nats, mean over the step's targets, of all processes."""
    lr: float
    grad_norm: float
    num_tokens: int
    seconds: float


def optimiser_step(run: Run, progress: Progress) -> StepResult:
    """One step on all processes; `progress` counts it."""
    started, accelerator = time.monotonic(), run.accelerator
    rows = run.steps[progress.step]
    num_targets = int(run.train.num_targets[rows].sum())
    batches = list(
        micro_batches(
            [run.train[row] for row in rows],
            run.args.holding,
            num_processes=accelerator.num_processes,
            process_index=accelerator.process_index,
        )
    )
    loss = torch.zeros((), device=accelerator.device)
    for number, batch in enumerate(batches, start=1):
        # Gradients travel between processes once a step, with its last micro-batch.
        is_last = number == len(batches)
        accelerator.sync_gradients = is_last
        with nullcontext() if is_last else accelerator.no_sync(run.module):
            with accelerator.autocast():
                total = run.module(*batch.to(accelerator.device))
            # Data parallelism averages gradients over processes; the loss is a mean over all targets of the step.
            accelerator.backward(total * accelerator.num_processes / num_targets)
        loss += total.detach() / num_targets
    grad_norm = clip_gradients(run)
    run.optimizer.step()
    lr = run.scheduler.get_last_lr()[0]
    run.scheduler.step()
    run.optimizer.zero_grad()
    mean_loss: Any = accelerator.reduce(loss, "sum")
    result = StepResult(
        mean_loss.item(),
        lr,
        float(grad_norm or 0.0),
        num_tokens=int(run.train.lengths[rows].sum()),
        seconds=time.monotonic() - started,
    )
    progress.step += 1
    progress.num_tokens += result.num_tokens
    progress.seconds += result.seconds
    return result


def clip_gradients(run: Run) -> Any:
    """Scale gradients so that their norm is at most max_grad_norm.

    -> () the norm before, or None where DeepSpeed does not return it
    """
    accelerator, max_norm = run.accelerator, run.args.max_grad_norm
    if accelerator.distributed_type != DistributedType.NO or accelerator.scaler is not None:
        return accelerator.clip_grad_norm_(run.module.parameters(), max_norm)
    gradients = [p.grad for p in run.module.parameters() if p.grad is not None]
    norm = torch.stack([gradient.flatten() @ gradient.flatten() for gradient in gradients]).sum().sqrt()
    if norm > max_norm:
        for gradient in gradients:
            gradient /= norm / max_norm
    return norm


class Log:
    """A line every `logging_steps` steps: kept in `progress`, in a file, on the progress bar, and sent to trackers."""

    def __init__(self, run: Run, progress: Progress) -> None:
        self.run, self.progress = run, progress
        self.since_last: list[StepResult] = []
        self.path = run.state.folder / LOG_NAME
        self.is_main = run.accelerator.is_main_process
        if self.is_main:
            # What was logged after the state that is gone on from will be logged again.
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(as_lines(progress.log))
        disable = None if self.is_main else True
        self.bar = tqdm(total=len(run.steps), initial=progress.step, unit="step", disable=disable)

    def add(self, result: StepResult) -> None:
        self.since_last.append(result)
        self.bar.update()
        if len(self.since_last) < self.run.args.logging_steps and self.progress.step < len(self.run.steps):
            return
        results, self.since_last = self.since_last, []
        loss = sum(r.loss for r in results) / len(results)
        speed = sum(r.num_tokens for r in results) / sum(r.seconds for r in results)
        self.bar.set_postfix_str(f"loss {loss:.4f}, {speed:,.0f} tokens/s")
        self.write(
            {
                "step": self.progress.step,
                "loss": round(loss, 5),
                "lr": results[-1].lr,
                "grad_norm": round(results[-1].grad_norm, 4),
                "tokens_per_second": round(speed),
                "seconds": round(self.progress.seconds, 3),
                "memory_bytes": peak_memory(self.run.accelerator.device),
            }
        )

    def write(self, line: dict[str, Any]) -> None:
        self.progress.log.append(line)
        if self.is_main:
            with self.path.open("a") as file:
                file.write(as_lines([line]))
        self.run.accelerator.log({k: v for k, v in line.items() if k != "step"}, step=line["step"])


def as_lines(log: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(line) + "\n" for line in log)


def peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU where there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def ends_epoch(run: Run, step: int) -> bool:
    """Whether the last row of an epoch was in this step."""
    batch_size = run.args.total_batch_size or 1
    return (step * batch_size) % len(run.train) < batch_size or step == len(run.steps)


def is_due(run: Run, step: int) -> bool:
    every = run.args.checkpointing_steps
    return every != "never" and (ends_epoch(run, step) if every == "epoch" else step % int(every) == 0)


def validate(run: Run, progress: Progress, log: Log) -> None:
    """Log the validation loss; where the best epoch is looked for, save the weights of a better one."""
    assert run.validation is not None
    loss = mean_loss(run, run.validation)
    log.write({"step": progress.step, "validation_loss": loss})
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
def mean_loss(run: Run, examples: Examples) -> float:
    """Nats per target token, the same in all processes."""
    accelerator = run.accelerator
    world, rank = accelerator.num_processes, accelerator.process_index
    batches = list(by_length(examples[:], run.args.holding))
    nothing = batches[0]._replace(targets=torch.full_like(batches[0].targets, IGNORED))
    # Processes go through the model together, so each takes as many batches as the others.
    own = [batches[i] if i < len(batches) else nothing for i in range(rank, -(-len(batches) // world) * world, world)]
    total = torch.zeros((), device=accelerator.device)
    run.module.eval()
    for batch in own:
        with accelerator.autocast():
            total += run.module(*batch.to(accelerator.device))
    run.module.train()
    summed: Any = accelerator.reduce(total, "sum")
    return round(summed.item() / int(examples.num_targets.sum()), 5)
