"""Packed examples attend to themselves only."""

import pytest
import torch
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from open_instruct.training.attention import attention_without_mask

LENGTHS = [5, 12, 7]


@pytest.mark.parametrize("scaling", [None, 0.2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_examples_attend_as_each_alone(dtype, scaling):
    module = nn.Module()
    module.num_key_value_groups = 2  # pyright: ignore[reportAttributeAccessIssue]
    torch.manual_seed(0)
    # Query, key, value: grouped-query attention of 4 heads.
    tensors = [torch.randn(1, heads, sum(LENGTHS), 8).to(dtype) for heads in (4, 2, 2)]
    found, _ = attention_without_mask(module, *tensors, None, lengths=LENGTHS, scaling=scaling)
    assert found.dtype == dtype
    start = 0
    for length in LENGTHS:
        alone = [tensor[:, :, start : start + length] for tensor in tensors]
        expected = sdpa_attention_forward(module, *alone, None, scaling=scaling)[0]
        assert torch.equal(found[:, start : start + length], expected)
        start += length
