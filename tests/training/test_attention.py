"""Attention: that of transformers, whatever way is the fastest, and of packed examples to themselves alone."""

import pytest
import torch
from torch import nn
from toy_models import toy_olmo
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from open_instruct.training.attention import FEW_TOKENS, attend
from open_instruct.training.model import load_weights

LENGTHS = [5, 12, 7]


@pytest.fixture
def module() -> nn.Module:
    made = nn.Module()
    made.num_key_value_groups = 2  # pyright: ignore[reportAttributeAccessIssue]
    return made


def projections(rows: int, num_tokens: int, dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(rows, heads, num_tokens, 8).to(dtype) for heads in (4, 2, 2)]


@pytest.mark.parametrize("scaling", [None, 0.2])
@pytest.mark.parametrize("num_tokens", [1, 24, FEW_TOKENS + 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_attend_as_in_full_precision(module, dtype, num_tokens, scaling):
    given = projections(3, num_tokens, dtype)
    expected, _ = sdpa_attention_forward(module, *(tensor.float() for tensor in given), None, scaling=scaling)
    found, _ = attend(module, *given, None, scaling=scaling)
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(found.float(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_examples_attend_as_each_by_itself(module, dtype):
    given = projections(1, sum(LENGTHS), dtype)
    found, _ = attend(module, *given, None, lengths=LENGTHS)
    alone = zip(*(tensor.split(LENGTHS, dim=2) for tensor in given), strict=True)
    assert torch.equal(found, torch.cat([attend(module, *blocks, None)[0] for blocks in alone], dim=1))


@pytest.mark.parametrize("num_tokens", [24, FEW_TOKENS + 1])
def test_a_mask_is_respected(module, num_tokens):
    given = projections(2, num_tokens, torch.bfloat16)
    window = torch.ones(num_tokens, num_tokens, dtype=torch.bool).tril().triu(-3)[None, None]
    found, _ = attend(module, *given, window)
    assert torch.equal(found, sdpa_attention_forward(module, *given, window)[0])
    assert not torch.allclose(found, attend(module, *given, None)[0], atol=3e-2)


def test_what_is_not_known_is_not_left_out(module):
    with pytest.raises(ValueError, match="softcap"):
        attend(module, *projections(1, 24, torch.bfloat16), None, softcap=30.0)


@pytest.mark.parametrize("config", [{}, {"num_key_value_heads": 2}])
def test_a_model_in_half_precision_says_what_it_says_in_full(tmp_path, config):
    toy_olmo(tmp_path, initializer_range=0.3, **config)
    ids = torch.randint(0, 300, (3, 24), generator=torch.Generator().manual_seed(0))
    logits = []
    for half in (False, True):
        model = load_weights(tmp_path, packing=False, half_precision=half).eval()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits.append(model(ids, use_cache=False).logits.float())
    full, found = logits
    assert (found - full).norm() < 0.05 * full.norm()
