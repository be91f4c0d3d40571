"""What a GPU needs: data that arrives without waiting, and shapes that suit its kernels."""

from collections.abc import Callable

import numpy as np
import torch


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy to the device. The host does not wait for a GPU, whose work then never stops for want of the next."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def to_host(tensor: torch.Tensor) -> Callable[[], list]:
    """Start to copy a tensor to the host.  -> function that waits for its elements and returns them"""
    if tensor.device.type != "cuda":
        return tensor.tolist
    copy = tensor.to("cpu", non_blocking=True)
    event = torch.cuda.Event()
    event.record()

    def arrived() -> list:
        event.synchronize()
        return copy.tolist()

    return arrived


def width_for_kernels(num_keys: int) -> int:
    """The next multiple of 16: attention kernels of GPUs copy a mask of another width in every layer."""
    return -(-num_keys // 16) * 16
