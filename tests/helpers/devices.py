"""Where the code of a test runs: code that finds a GPU uses it, so the CPU's results need it hidden."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


def hide_gpu(patch: pytest.MonkeyPatch) -> None:
    """Let this process and those that it starts see no GPU."""
    if torch := sys.modules.get("torch"):
        # CUDA and torch count the devices once. They do so now, so that later tests of this process still have a GPU.
        if torch.cuda.is_available():
            torch.cuda.device_count()
        patch.setattr(torch.cuda, "is_available", lambda: False)
    patch.setenv("CUDA_VISIBLE_DEVICES", "")


@contextmanager
def any_device() -> Iterator[None]:
    """Inside the block, accelerate chooses device and precision anew: they are of a process, not of a run."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        yield
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


@contextmanager
def on_cpu() -> Iterator[None]:
    """Inside the block, code that uses a GPU where there is one runs on the CPU."""
    with pytest.MonkeyPatch.context() as patch, any_device():
        hide_gpu(patch)
        yield
