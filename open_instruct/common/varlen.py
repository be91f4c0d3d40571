"""Where torch's attention for sequences of unequal length, `varlen_attn`, has a kernel: flash attention."""

import torch

MAX_HEAD_SIZE = 256


def has_varlen_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether tensors of this kind can be its inputs; the GPU is of the Ampere generation or later."""
    is_half = dtype in (torch.bfloat16, torch.float16)
    return device.type == "cuda" and is_half and torch.cuda.get_device_capability(device) >= (8, 0)


def fits_varlen_kernel(head_size: int) -> bool:
    return head_size % 8 == 0 and head_size <= MAX_HEAD_SIZE
