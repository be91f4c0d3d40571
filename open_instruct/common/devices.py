"""What a GPU needs: data that arrives without waiting, and shapes and kinds of tensors that suit its kernels."""

from collections.abc import Callable

import numpy as np
import torch

MAX_VARLEN_HEAD_SIZE = 256


def to_device(data: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy to the device. The host does not wait for a GPU, whose work then never stops for want of the next."""
    tensor = torch.as_tensor(data)
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


def next_multiple(number: int, of: int) -> int:
    return -(-number // of) * of


def width_for_kernels(num_keys: int) -> int:
    """The next multiple of 16: attention kernels of GPUs copy a mask of another width in every layer."""
    return next_multiple(num_keys, 16)


def has_varlen_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch's `varlen_attn`, for sequences one after the other, has a kernel: flash attention, since Ampere."""
    is_half = dtype in (torch.bfloat16, torch.float16)
    return device.type == "cuda" and is_half and torch.cuda.get_device_capability(device) >= (8, 0)


def fits_varlen_kernel(head_size: int) -> bool:
    return head_size % 8 == 0 and head_size <= MAX_VARLEN_HEAD_SIZE
