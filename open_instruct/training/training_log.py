"""The training log: one line every `logging_steps` steps, in a file and sent to trackers, and the live progress."""

import math
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from open_instruct.common.errors import UserError
from open_instruct.common.json_files import to_line, write_jsonl
from open_instruct.common.progress_line import ProgressLine, training_details
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
        results, self.results = self.results, []
        started = time.monotonic()
        loss = sum(torch.stack([r.loss for r in results]).tolist()) / len(results)
        if not math.isfinite(loss):
            raise UserError(
                f"the loss is {loss} at step {self.progress.step}: training diverged, or overflowed in half precision; "
                "lower --learning_rate, or choose another --mixed_precision"
            )
        waited = time.monotonic() - started
        self.progress.seconds += waited
        tokens_per_second = sum(r.num_tokens for r in results) / (sum(r.seconds for r in results) + waited)
        self.progress_line.advance(details=training_details(loss, result.lr, tokens_per_second))
        self.write(
            {
                "step": self.progress.step,
                "loss": round(loss, 5),
                "lr": result.lr,
                "grad_norm": as_number(result.grad_norm),
                "tokens_per_second": round(tokens_per_second),
                "seconds": round(self.progress.seconds, 3),
                "memory_bytes": peak_memory_bytes(self.accelerator.device),
            }
        )

    def write(self, line: dict[str, Any]) -> None:
        self.progress.log.append(line)
        if self.accelerator.is_main_process:
            with self.path.open("a") as file:
                file.write(to_line(line))
        self.accelerator.log({k: v for k, v in line.items() if k != "step" and v is not None}, step=line["step"])


def as_number(grad_norm: torch.Tensor | None) -> float | None:
    """None where it is unknown, and in fp16 where gradients overflowed and the step was left out."""
    norm = float("nan") if grad_norm is None else float(grad_norm)
    return round(norm, 4) if math.isfinite(norm) else None


def peak_memory_bytes(device: torch.device) -> int:
    """Of the GPU where there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
