"""A step of many small kernels as one CUDA graph: Python launches it once instead of every kernel."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

Step = Callable[[], torch.Tensor]
"""Reads and writes the same tensors in every call, of the same shapes; twice in a row is as good as once."""


class StepGraph:
    """Runs a step: its first call captures the step as a CUDA graph, later calls replay the graph.

    On other devices, and for a step that waits for the device (some rotary embeddings look at the positions, some
    mixtures of experts at the experts), every call runs the step itself.
    """

    def __init__(self, device: torch.device, pool: Any = None) -> None:
        """pool: memory of `torch.cuda.graph_pool_handle` that graphs share of which no two run at once."""
        self.pool = pool
        self.can_capture = device.type == "cuda"
        self.graph: torch.cuda.CUDAGraph | None = None
        self.output = torch.empty(0)

    def __call__(self, step: Step) -> torch.Tensor:
        """The output of the step; the next call overwrites it."""
        if self.can_capture and self.graph is None:
            self._capture(step)
        if self.graph is None:
            return step()
        self.graph.replay()
        return self.output

    def _capture(self, step: Step) -> None:
        # A first run prepares what may not happen in a capture, such as the work space of matrix products, and finds
        # steps that cannot be captured: after a capture that failed, the device is in no known state.
        stream = capture_stream()
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream), refuse_waiting():
                step()
        except RuntimeError as error:
            if "synchronizing" not in str(error):
                raise
            self.can_capture = False
        torch.cuda.current_stream().wait_stream(stream)
        if self.can_capture:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool, stream=stream):
                self.output = step()
            self.graph = graph


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
