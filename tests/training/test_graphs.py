"""Gradients by graphs of padded micro-batches: those of the micro-batches as they are, on a GPU and on the CPU.

On the CPU nothing is captured: what a graph would repeat is computed again.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from torch import nn
from toy_examples import examples
from toy_models import toy_olmo
from transformers import GPT2Config, GPTNeoXConfig, OlmoConfig

from open_instruct.data.encode import IGNORED
from open_instruct.training.arguments import Args
from open_instruct.training.batches import Batch, collate
from open_instruct.training.graphs import GraphedGradients, padded_to_multiples, uses_graphs
from open_instruct.training.loss import TargetLoss

NUM_TARGETS = 7


@pytest.fixture
def make_loss(tmp_path, device):
    return lambda: TargetLoss(toy_olmo(tmp_path, initializer_range=0.3, hidden_size=64)).to(device)


def gradient_function(loss: TargetLoss, device: torch.device):
    def add_gradients(batch: Batch, num_targets: int | torch.Tensor) -> torch.Tensor:
        total = loss(*batch.to(device))
        (total / num_targets).backward()
        return total.detach()

    return add_gradients


def gradients_of(loss: TargetLoss) -> list[torch.Tensor]:
    """Copies, and the next step begins."""
    gradients = [parameter.grad.cpu().clone() for parameter in loss.parameters() if parameter.grad is not None]
    loss.zero_grad()
    return gradients


def test_losses_and_gradients_are_those_of_the_micro_batches(make_loss, device):
    made = examples()
    # The first shape comes up again with other tokens, first in its step and later in it; the second one once.
    parts = {"a": made[:3], "b": [*reversed(made[:3])], "c": made[3:]}
    batches = {name: collate(part, packing=False) for name, part in parts.items()}
    plain, graphed = make_loss(), make_loss()
    add_gradients = gradient_function(plain, device)
    by_graphs = GraphedGradients(gradient_function(graphed, device), graphed, device)
    for step in ("ab", "bab", "c", "aa", "b"):
        expected = [add_gradients(batches[name], NUM_TARGETS).item() for name in step]
        found = [by_graphs(batches[name], NUM_TARGETS).item() for name in step]
        assert found == pytest.approx(expected, rel=1e-4), step
        for one, other in zip(gradients_of(graphed), gradients_of(plain), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert sorted(len(none) > 0 for *_, none in by_graphs.graphs) == [False, True]


def test_nothing_is_padded_beyond_the_positions_of_the_model(make_loss, device):
    batch, seen, loss = collate(examples(), packing=False), [], make_loss()

    def record(batch: Batch, _: int | torch.Tensor) -> torch.Tensor:
        seen.append(batch.ids.shape[1])
        return torch.zeros((), device=device)

    seq = batch.ids.shape[1]
    for max_seq in (seq, 10_000):
        GraphedGradients(record, loss, device, max_seq=max_seq)(batch, NUM_TARGETS)
    assert seen == [seq, 16 * (seq // 16 + 1)]


def test_what_pads_a_batch_is_masked():
    batch = collate(examples(), packing=False)
    padded = padded_to_multiples(batch)
    assert padded.ids.shape == (len(batch.ids), 16 * -(-(batch.ids.shape[1] + 1) // 16))
    num_targets = len(batch.targets)
    tokens = padded.ids.flatten()[padded.places[:num_targets]]
    assert torch.equal(tokens, batch.ids.flatten()[batch.places])
    assert torch.equal(padded.targets[:num_targets], batch.targets)
    assert set(padded.targets[num_targets:].tolist()) == {-100}
    # At a place that is no token of any example.
    assert set(padded.places[num_targets:].tolist()) == {padded.ids.shape[1] - 1}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (OlmoConfig(), True),
        (OlmoConfig(attention_dropout=0.1), False),
        (GPTNeoXConfig(), True),  # classifier_dropout is 0.1
        (GPTNeoXConfig(hidden_dropout=0.1), False),
        (GPT2Config(), False),
        (GPT2Config(resid_pdrop=0, embd_pdrop=0, attn_pdrop=0), True),
    ],
)
def test_graphs_are_for_language_models_without_dropout(config, expected):
    on_gpu: Any = SimpleNamespace(device=torch.device("cuda"), distributed_type=DistributedType.NO)
    args = Args(model_name_or_path="model", train_file=Path("train.jsonl"), learning_rate=1e-3)
    assert uses_graphs(args, config, on_gpu) == expected


class WithRawWeight(nn.Module):
    """A loss in which the weight of a linear layer is used without the layer, as Mamba layers do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.raw, self.called = nn.Embedding(1024, 8), nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, *fields: Any) -> torch.Tensor:
        batch = Batch(*fields)
        states = self.embedding(batch.ids) @ self.raw.weight + self.raw.bias
        return (self.called(states).flatten()[batch.places].square() * (batch.targets != IGNORED)).sum()


def test_gradients_of_weights_that_are_used_without_their_layer_are_kept(device):
    batches = [collate(part, packing=False) for part in (examples()[:3], [*reversed(examples()[:3])])]
    plain, graphed = WithRawWeight().to(device), WithRawWeight().to(device)
    add_gradients = gradient_function(plain, device)
    by_graphs = GraphedGradients(gradient_function(graphed, device), graphed, device)
    for memory in by_graphs.gradients.memory.values():
        memory.fill_(777.0)
    for _ in range(4):
        for batch in batches:
            add_gradients(batch, NUM_TARGETS)
            by_graphs(batch, NUM_TARGETS)
        for one, other in zip(gradients_of(graphed), gradients_of(plain), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
