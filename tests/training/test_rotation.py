"""Rotary embedding: what transformers' own functions compute, in value and gradients, or theirs where they differ."""

import importlib.util
import sys
from typing import Any

import pytest
import torch

from open_instruct.training.rotation import rotate, rotate_faster


@pytest.fixture
def transformers_own(monkeypatch):
    def load(family: str) -> Any:
        """The family's module, anew: another test may have put `rotate` into the one that all use."""
        name = f"transformers.models.{family}.modeling_{family}"
        spec: Any = importlib.util.find_spec(name)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load


def rotate_in(module: Any) -> None:
    """Of some model that is defined there."""
    rotate_faster(type("Model", (), {"__module__": module.__name__})())


def turned(function: Any, *, dtype: torch.dtype, head_dim: int = 8) -> list[torch.Tensor]:
    """Query and key after it, and their gradients."""
    torch.manual_seed(0)
    query, key = (torch.randn(2, heads, 5, head_dim).to(dtype).requires_grad_() for heads in (4, 2))
    angles = torch.rand(2, 5, 4).repeat(1, 1, 2)  # of 8 dimensions
    found = function(query, key, angles.cos(), angles.sin())
    sum((one.float() * torch.arange(head_dim)).sum() for one in found).backward()
    return [*found, query.grad, key.grad]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["olmo", "olmo2", "llama", "gpt_neox"])
def test_values_and_gradients_are_those_of_transformers(transformers_own, family, dtype):
    module = transformers_own(family)
    expected = turned(module.apply_rotary_pos_emb, dtype=dtype)
    rotate_in(module)
    once = module.apply_rotary_pos_emb
    assert once.__module__ == rotate.__module__
    found = turned(once, dtype=dtype)
    assert found[0].dtype == found[2].dtype == dtype
    for one, other in zip(found, expected, strict=True):
        if dtype == torch.float32:
            assert torch.equal(one, other)
        torch.testing.assert_close(one.float(), other.float(), atol=2e-2, rtol=2e-2)
    rotate_in(module)
    assert module.apply_rotary_pos_emb is once


def test_heads_that_are_rotated_in_part_are_left_to_transformers(transformers_own):
    module = transformers_own("gpt_neox")
    expected = turned(module.apply_rotary_pos_emb, dtype=torch.float32, head_dim=12)
    rotate_in(module)
    found = turned(module.apply_rotary_pos_emb, dtype=torch.float32, head_dim=12)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_what_rotates_otherwise_is_left_alone(transformers_own):
    """Cohere's models turn neighbours, not halves; GPT-2 turns nothing."""
    module = transformers_own("cohere")
    before = module.apply_rotary_pos_emb
    rotate_in(module)
    assert module.apply_rotary_pos_emb is before
    rotate_in(transformers_own("gpt2"))


def test_a_bfloat16_query_is_rotated_in_float32():
    found = turned(rotate, dtype=torch.bfloat16)
    precise = turned(rotate, dtype=torch.float32)
    # One rounding of the input and one of the result.
    assert (found[0].float() - precise[0]).abs().max() < 2**-7 * precise[0].abs().max()
