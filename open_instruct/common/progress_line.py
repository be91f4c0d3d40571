"""Progress of a long loop: a bar on a terminal, now and then a line in a log."""

import sys
import time
from typing import Any

CLOSEST_SECONDS = 30.0
FURTHEST_SECONDS = 300.0
SHARE_A_LINE = 0.05
"""A line is written every 5% of the loop, but no sooner than 30 s and no later than 5 min after the last one."""


class ProgressLine:
    """The first and the last step are always written."""

    def __init__(self, name: str, total: int, *, unit: str, num_done: int = 0, is_shown: bool = True) -> None:
        """num_done: steps of an earlier run that is resumed."""
        self.name, self.total, self.unit, self.is_shown = name, total, unit, is_shown
        self.num_done: float = num_done
        self.details = ""
        self.first, self.started = num_done, time.monotonic()
        self.written: tuple[float, float] | None = None
        self.bar: Any = None
        if is_shown and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, initial=num_done, unit=unit, desc=name)

    def __enter__(self) -> "ProgressLine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def advance(self, num_steps: float = 1, details: str = "") -> None:
        """Count steps as done. `details`: of the last one, its loss for example."""
        self.num_done += num_steps
        self.details = details
        if self.bar is not None:
            self.bar.set_postfix_str(details, refresh=False)
            self.bar.update(round(self.num_done) - self.bar.n)
        elif self.is_shown and self.is_due():
            self.write()

    def is_due(self) -> bool:
        if self.written is None:
            return True
        if round(self.num_done) >= self.total > round(self.written[1]):
            return True
        seconds = time.monotonic() - self.written[0]
        is_far = self.num_done - self.written[1] >= SHARE_A_LINE * self.total
        return seconds >= FURTHEST_SECONDS or (seconds >= CLOSEST_SECONDS and is_far)

    def write(self) -> None:
        self.written = time.monotonic(), self.num_done
        print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """`finetune: step 120/600 (20%), loss 2.3100, 12 min left`"""
        parts = [
            f"{self.unit} {self.num_done:.0f}/{self.total} ({100 * self.num_done / self.total:.0f}%)",
            self.details,
        ]
        left, num_new = self.total - self.num_done, self.num_done - self.first
        if left > 0 and num_new > 0:
            seconds = (time.monotonic() - self.started) * left / num_new
            parts.append(f"{duration(seconds)} left")
        return f"{self.name}: {', '.join(part for part in parts if part)}"

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        elif self.written is not None and round(self.written[1]) < round(self.num_done):
            self.write()


def training_details(loss: float, lr: float, tokens_per_second: float) -> str:
    return f"loss {loss:.4f}, learning rate {lr:.3g}, {tokens_per_second:,.0f} tokens/s"


def duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes:.0f} min" if minutes < 120 else f"{hours:.1f} h"
