"""Ranges of numbers by the name of an option or key: one table for command lines, study files and task files."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from open_instruct.common.errors import UserError


@dataclass(frozen=True)
class Range:
    """Finite numbers: NaN is in no range."""

    lowest: float = 0
    highest: float = math.inf
    is_open: bool = False
    """Without `lowest` itself."""

    def __contains__(self, value: float) -> bool:
        is_above = value > self.lowest if self.is_open else value >= self.lowest
        return is_above and value <= self.highest and value < math.inf

    def __str__(self) -> str:
        least = f"above {self.lowest:g}" if self.is_open else f"at least {self.lowest:g}"
        return f"a number {least}" + (f" and at most {self.highest:,}" if self.highest < math.inf else "")


SEEDS = Range(0, 2**32 - 1)
"""Those that every random generator takes."""
RANGES: Mapping[str, Range] = {
    **dict.fromkeys(("seed", "seeds", "random_subsample_seed", "fewshot_seed"), SEEDS),
    **dict.fromkeys(("shots", "num_shots", "num_validation_rows", "num_recorded_inputs", "gpus"), Range(0)),
    **dict.fromkeys(
        ("weight_decay", "max_grad_norm", "warmup_steps", "retries", "num_documents", "num_samples", "index"), Range(0)
    ),
    "alphas": Range(0),
    **dict.fromkeys(("rows", "sample", "max_train_rows", "limit", "max_tokens_per_batch", "max_seq_length"), Range(1)),
    # Upper limits are far above what is of use, and keep typing errors from filling the memory.
    **dict.fromkeys(("epochs", "num_train_epochs"), Range(1, 10_000)),
    "max_train_steps": Range(1, 10_000_000),
    **dict.fromkeys(("batch_size", "total_batch_size", "per_device_train_batch_size"), Range(1, 1_000_000)),
    "gradient_accumulation_steps": Range(1, 1_000_000),
    **dict.fromkeys(("preprocessing_num_workers", "num_workers"), Range(1, 1_024)),
    "num_resamples": Range(1, 1_000_000),
    **dict.fromkeys(("max_new_tokens", "lora_rank", "early_stopping_patience"), Range(1)),
    **dict.fromkeys(("logging_steps", "ckpt_amount"), Range(1)),
    **dict.fromkeys(("d_model", "num_layers", "num_heads", "vocab_size"), Range(1)),
    **dict.fromkeys(("cpus", "memory_gb", "throttle", "num_parallel"), Range(1)),
    **dict.fromkeys(("flop_per_second", "tokens_per_row", "num_parameters"), Range(1)),
    "num_draws": Range(2, 10_000),  # one draw gives no standard error
    **dict.fromkeys(("lr", "learning_rate", "lora_alpha", "temperature", "sizes"), Range(0, is_open=True)),
    **dict.fromkeys(("timeout_seconds", "interval_seconds"), Range(0, 10_000_000, is_open=True)),
    "top_p": Range(0, 1, is_open=True),
    **dict.fromkeys(("warmup_ratio", "min_share", "shared_by"), Range(0, 1)),
    "ngram": Range(2, 100),
    "lora_dropout": Range(0, 0.99),
}
"""Checked wherever the name is."""


def problem(name: str, value: Any) -> str | None:
    """What is wrong with a number, or with a list that has numbers; None where nothing is."""
    for number in value if isinstance(value, tuple) else (value,):
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if is_number and name in RANGES and number not in RANGES[name]:
            return f"expected {RANGES[name]}, found {number}"
    return None


def problems(options: Any) -> list[str]:
    """One for each field of a dataclass that has a number out of its range."""
    found = {field.name: problem(field.name, getattr(options, field.name)) for field in dataclasses.fields(options)}
    return [f"{name}: {text}" for name, text in found.items() if text]


def require_in_range(options: Any) -> None:
    """Raises UserError with every number that is out of its range."""
    if found := problems(options):
        raise UserError("; ".join(f"--{one}" for one in found))
