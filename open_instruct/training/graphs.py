"""Small micro-batches on a GPU as CUDA graphs: computing their kernels takes less time than launching them one by one.

A graph computes the loss of a micro-batch of one shape, and writes its gradients or adds them to those of earlier ones
of the step. So that few shapes come up, batches are padded to multiples; what is added is masked, and no result depends
on it beyond float noise.
"""

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.nn.functional import pad

from open_instruct.common.devices import next_multiple
from open_instruct.common.step_graph import StepGraph
from open_instruct.data.encode import IGNORED
from open_instruct.training.arguments import Args
from open_instruct.training.batches import Batch
from open_instruct.training.linear_gradients import write_linear_gradients

AddGradients = Callable[[Batch, int | Tensor], Tensor]
"""Micro-batch, targets of the step -> () summed loss of the micro-batch, in nats; its gradients are added."""
MAX_TOKENS = 3072
"""Of a micro-batch: of larger ones the kernels take longer than their launch, and embeddings wait."""
SEQ_MULTIPLE, TARGETS_MULTIPLE = 16, 64
DROPOUT = re.compile(r"(?!classifier|summary).*(dropout.*|pdrop)")
"""Fields of a config, without those of heads that causal language models lack: Pythia's classifier_dropout is 0.1."""
MAX_GRAPHS = 32
"""Each takes some 20 MB."""


def uses_graphs(args: Args, config: Any, accelerator: Accelerator) -> bool:
    """Whether small micro-batches are graphs: on one GPU, where the same kernels run in every step.

    Not with dropout, whose random numbers a graph would change; nor in fp16, whose first steps are skipped.
    """
    dropouts = [value for name, value in config.to_dict().items() if DROPOUT.fullmatch(name)]
    has_dropout = any(dropouts) or (args.use_lora and args.lora_dropout > 0)
    is_alone = accelerator.distributed_type == DistributedType.NO and args.mixed_precision != "fp16"
    differs = args.packing or args.gradient_checkpointing or args.torch_compile
    return accelerator.device.type == "cuda" and is_alone and not has_dropout and not differs


class GraphedGradients:
    """`add_gradients` by CUDA graphs for shapes that come up again, and as it is for others.

    Small micro-batches are padded in either case, so that a resumed run has the same numbers.
    """

    def __init__(
        self, add_gradients: AddGradients, module: nn.Module, device: torch.device, *, max_seq: int | None = None
    ) -> None:
        """max_seq: positions of the model, beyond which nothing is padded."""
        self.add_gradients, self.device, self.max_seq = add_gradients, device, max_seq
        self.gradients = StaticGradients(module)
        self.pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self.num_seen: Counter[tuple] = Counter()
        self.graphs: dict[tuple, GraphOfShape] = {}

    def __call__(self, batch: Batch, num_targets: int | Tensor) -> Tensor:
        padded = padded_to_multiples(batch)
        is_too_wide = self.max_seq is not None and padded.ids.shape[1] > self.max_seq
        if is_too_wide or padded.ids.numel() > MAX_TOKENS:
            return self.gradients.kept(self.add_gradients, batch, num_targets)
        shape = (*padded.ids.shape, len(padded.targets), self.gradients.none())
        self.num_seen[shape] += 1
        if shape not in self.graphs:
            if self.num_seen[shape] == 1 or len(self.graphs) == MAX_GRAPHS:
                return self.gradients.kept(self.add_gradients, padded, num_targets)
            self.graphs[shape] = GraphOfShape(self.add_gradients, self.gradients, padded.to(self.device), self.pool)
        return self.graphs[shape](padded, num_targets)


class StaticGradients:
    """Gradients that have the same memory in every step, and are None where a step begins."""

    def __init__(self, module: nn.Module) -> None:
        self.memory = {p: torch.empty_like(p) for p in module.parameters() if p.requires_grad}
        write_linear_gradients(module, self.memory)

    def none(self) -> frozenset[nn.Parameter]:
        return frozenset(parameter for parameter in self.memory if parameter.grad is None)

    def kept(self, add_gradients: AddGradients, batch: Batch, num_targets: int | Tensor) -> Tensor:
        """As `add_gradients`; where autograd has made new memory for a gradient, that is copied to its own."""
        loss = add_gradients(batch, num_targets)
        for parameter, memory in self.memory.items():
            if parameter.grad is not None and parameter.grad is not memory:
                parameter.grad = memory.copy_(parameter.grad)
        return loss


class GraphOfShape:
    """`add_gradients` for micro-batches of one shape, before which the same gradients are None."""

    def __init__(self, add_gradients: AddGradients, gradients: StaticGradients, batch: Batch, pool: object) -> None:
        self.add_gradients, self.gradients, self.batch = add_gradients, gradients, batch
        self.none = gradients.none()
        # The first run, which may fail midway and be repeated, adds nothing.
        self.num_targets = torch.full((), float("inf"), device=batch.ids.device)
        self.graph = StepGraph(batch.ids.device, pool)
        self.graph(self.step)
        self.not_none = [parameter for parameter in gradients.memory if parameter.grad is not None]

    def step(self) -> Tensor:
        for parameter in self.none:
            parameter.grad = None
        return self.gradients.kept(self.add_gradients, self.batch, self.num_targets)

    def __call__(self, batch: Batch, num_targets: int | Tensor) -> Tensor:
        for static, new in zip(self.batch[:3], batch.to(self.batch.ids.device)[:3], strict=True):
            static.copy_(new)
        self.num_targets.fill_(num_targets)
        loss = self.graph(self.step)
        for parameter in self.not_none:
            parameter.grad = self.gradients.memory[parameter]
        return loss


def padded_to_multiples(batch: Batch) -> Batch:
    """More padding on the right, at least one column, and targets without effect at a place in it."""
    seq = batch.ids.shape[1]
    wider = next_multiple(seq + 1, SEQ_MULTIPLE)
    num_more = next_multiple(len(batch.targets), TARGETS_MULTIPLE) - len(batch.targets)
    places = batch.places + batch.places // seq * (wider - seq)
    return Batch(
        pad(batch.ids, (0, wider - seq)),
        pad(batch.targets, (0, num_more), value=IGNORED),
        pad(places, (0, num_more), value=wider - 1),
    )
