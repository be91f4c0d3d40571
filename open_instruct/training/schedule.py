"""The learning rate of each optimiser step: the schedules of transformers."""

from typing import Any

from transformers import get_scheduler

LR_END = 1e-7
"""Where transformers ends its polynomial schedule."""


def make_schedule(name: str, optimizer: Any, warmup_ratio: float, *, num_steps: int) -> Any:
    """The schedule `name` of `num_steps` steps. Warm-up begins at a rate of 0, so that its first step changes nothing.

    A warm-up of one step would only waste that step, and is left out. A polynomial schedule ends at LR_END, or at 0
    where its peak is not above that.
    """
    num_warmup = round(warmup_ratio * num_steps)
    num_warmup = 0 if num_warmup == 1 else num_warmup
    ends_at_zero = name == "polynomial" and optimizer.defaults["lr"] <= LR_END
    return get_scheduler(
        name,
        optimizer,
        num_warmup_steps=num_warmup,
        # transformers divides by the steps after warm-up, of which there may be none.
        num_training_steps=max(num_steps, num_warmup + 1),
        scheduler_specific_kwargs={"lr_end": 0.0} if ends_at_zero else None,
    )
