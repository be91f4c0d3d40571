"""The training log: one line every `logging_steps` steps, in a file and sent to trackers, and the live progress."""

import math
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from open_instruct.common.errors import UserError
from open_instruct.common.json_files import to_line, write_jsonl
from open_instruct.common.progress_line import ProgressLine, training_details
from open_instruct.training.divergence import diverged, num_not_finite, skips_overflows
from open_instruct.training.state import LOG_NAME, Progress


@dataclass(frozen=True)
class StepResult:
    loss: torch.Tensor
    """() nats, mean over the step's targets, of all processes."""
    lr: float
    grad_norm: torch.Tensor | None
    """() Before clipping; None where DeepSpeed does not tell."""
    num_tokens: int
    seconds: float
    """Of the processor, which runs ahead of a GPU until the log reads the losses."""


class TrainingLog:
    def __init__(
        self, folder: Path, accelerator: Accelerator, progress: Progress, *, num_steps: int, every: int
    ) -> None:
        """every: number of steps in one line."""
        self.path, self.accelerator, self.progress = folder / LOG_NAME, accelerator, progress
        self.num_steps, self.every = num_steps, every
        self.results: list[StepResult] = []
        """Of the steps that have no line yet."""
        self.last_loss: float | None = next((line["loss"] for line in reversed(progress.log) if "loss" in line), None)
        if accelerator.is_main_process:
            # Drop the lines written after the state that is resumed: those steps will be logged again.
            write_jsonl(self.path, progress.log)
        self.progress_line = ProgressLine(
            "training", num_steps, unit="step", num_done=progress.step, is_shown=accelerator.is_main_process
        )

    def add(self, result: StepResult) -> None:
        self.results.append(result)
        if len(self.results) < self.every and self.progress.step < self.num_steps:
            self.progress_line.advance(details=self.progress_line.details)
            return
        started = time.monotonic()
        losses, norms = self.finite_results()
        results, self.results = self.results, []
        loss = sum(losses) / len(losses)
        waited = time.monotonic() - started
        self.progress.seconds += waited
        tokens_per_second = sum(r.num_tokens for r in results) / (sum(r.seconds for r in results) + waited)
        self.progress_line.advance(details=training_details(loss, result.lr, tokens_per_second))
        self.write(
            {
                "step": self.progress.step,
                "loss": round(loss, 5),
                "lr": result.lr,
                "grad_norm": as_number(norms[-1]),
                "tokens_per_second": round(tokens_per_second),
                "seconds": round(self.progress.seconds, 3),
                "memory_bytes": peak_memory_bytes(self.accelerator.device),
            }
        )

    def finite_results(self) -> tuple[list[float], list[float | None]]:
        """Losses and gradient norms of the steps that have no line yet; waits for the GPU.

        Raises UserError at the first that is not finite.
        """
        losses = torch.stack([result.loss for result in self.results]).tolist() if self.results else []
        norms = [None if result.grad_norm is None else float(result.grad_norm) for result in self.results]
        may_overflow = skips_overflows(self.accelerator)
        first = self.progress.step - len(losses) + 1
        for step, (loss, norm) in enumerate(zip(losses, norms, strict=True), start=first):
            if not math.isfinite(loss):
                raise self.diverged(f"the loss is {loss}", step)
            if norm is not None and not math.isfinite(norm) and not may_overflow:
                raise self.diverged(f"the norm of the gradients is {norm}", step)
            self.last_loss = loss
        return losses, norms

    def require_finite(self, module: nn.Module) -> None:
        """Raises UserError where the weights, or what led to them, are not finite. All processes call this."""
        self.finite_results()
        count: Any = self.accelerator.reduce(num_not_finite(module, self.accelerator.device), "sum")
        if count.item():
            raise self.diverged("a weight is not finite", self.progress.step)

    def diverged(self, what: str, step: int) -> UserError:
        return diverged(what, step, last_loss=self.last_loss, precision=self.accelerator.mixed_precision)

    def write_validation(self, loss: float) -> None:
        """Raises UserError where the loss is not finite."""
        if not math.isfinite(loss):
            raise self.diverged(f"the validation loss is {loss}", self.progress.step)
        self.write({"step": self.progress.step, "validation_loss": loss})

    def write(self, line: dict[str, Any]) -> None:
        self.progress.log.append(line)
        if self.accelerator.is_main_process:
            with self.path.open("a") as file:
                file.write(to_line(line))
        self.accelerator.log({k: v for k, v in line.items() if k != "step" and v is not None}, step=line["step"])


def as_number(grad_norm: float | None) -> float | None:
    """None where it is unknown, and in fp16 where gradients overflowed and the step was left out."""
    return None if grad_norm is None or not math.isfinite(grad_norm) else round(grad_norm, 4)


def peak_memory_bytes(device: torch.device) -> int:
    """Of the GPU where there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
