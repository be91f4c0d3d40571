"""The loss and its gradients are torch's own, however few passes over memory they take."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from toy_models import toy_olmo

from open_instruct.encode import IGNORED, Encoded
from open_instruct.training.batches import pad
from open_instruct.training.loss import TargetLoss, spare_memory_traffic, summed_cross_entropy


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_cross_entropy_is_torchs(dtype):
    torch.manual_seed(0)
    # So wide that probabilities of targets underflow.
    logits = (torch.randn(7, 50) * 60).to(dtype).requires_grad_()
    targets = torch.randint(0, 50, (7,))
    expected = cross_entropy(logits.float(), targets, reduction="sum")
    found = summed_cross_entropy(logits, targets)
    torch.testing.assert_close(found, expected)
    (expected_gradient,) = torch.autograd.grad(expected * 0.3, logits)
    (gradient,) = torch.autograd.grad(found * 0.3, logits)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, expected_gradient)
    assert summed_cross_entropy(logits[:0], targets[:0]).item() == 0


@pytest.mark.parametrize("tied", [True, False])
def test_embedding_gradients_in_place_are_autograds(tmp_path, tied):
    model = toy_olmo(tmp_path, tie_word_embeddings=tied)
    padding = model.config.pad_token_id
    ids = [5, 9, 5, padding, 17, 9]
    batches = [pad([Encoded(ids, [IGNORED, *ids[1:]])]), pad([Encoded([7, 5], [IGNORED, 5])] * 2)]
    spared = TargetLoss(model)
    spare_memory_traffic(spared)
    assert spared.embeds_in_place == tied
    found = gradients(spared, batches)
    expected = gradients(TargetLoss(model), batches)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-5)


def gradients(loss: TargetLoss, batches) -> dict[str, torch.Tensor]:
    """Of all batches, accumulated."""
    loss.zero_grad()
    for batch in batches:
        loss(*batch).backward()
    return {name: parameter.grad for name, parameter in loss.named_parameters()}
