"""A step of many small kernels as one CUDA graph: Python launches it once instead of every kernel."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

Step = Callable[[], torch.Tensor]
"""Reads and writes the same tensors in every call, of the same shapes; it can be repeated after it failed midway."""


class StepGraph:
    """Runs a step: its second call captures the step as a CUDA graph, which that and later calls replay.

    On other devices, and for a step that waits for the device (some rotary embeddings look at the positions, some
    mixtures of experts at the experts), every call runs the step itself.
    """

    def __init__(self, device: torch.device, pool: Any = None) -> None:
        """pool: memory of `torch.cuda.graph_pool_handle` that graphs share of which no two run at once."""
        self.pool = pool
        self.can_capture = device.type == "cuda"
        self.graph: torch.cuda.CUDAGraph | None = None
        self.output: torch.Tensor | None = None

    def __call__(self, step: Step) -> torch.Tensor:
        """The output of the step; the next call overwrites it."""
        if self.can_capture and self.output is None:
            self.output = self._run_first(step)
        elif self.can_capture:
            self.graph = self.graph or self._capture(step)
            self.graph.replay()
        return self.output if self.output is not None else step()

    def _run_first(self, step: Step) -> torch.Tensor | None:
        # It prepares what may not happen in a capture, such as the work space of matrix products, and finds steps that
        # cannot be captured: after a capture that failed, the device is in no known state.
        stream = capture_stream()
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream), refuse_waiting():
                return step()
        except RuntimeError as error:
            if "synchronizing" not in str(error):
                raise
            self.can_capture = False
            return None
        finally:
            torch.cuda.current_stream().wait_stream(stream)

    def _capture(self, step: Step) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=capture_stream()):
            self.output = step()
        return graph


@cache
def capture_stream() -> torch.cuda.Stream:
    """The same for all captures: torch keeps a work space of matrix products for every stream."""
    return torch.cuda.Stream()


@contextmanager
def refuse_waiting() -> Iterator[None]:
    """Make torch raise a RuntimeError where the host waits for the device, inside the block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls this mode a prototype
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)
