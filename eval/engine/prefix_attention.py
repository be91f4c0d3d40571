"""A forward pass over a forest of texts (forest.py), through any model that takes transformers' attention interface.

While it runs, the model's attention is `attend` below, which hands queries, keys and values to the pass; everything
else of the model works on single tokens, and so on tokens laid end to end.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from transformers import AttentionInterface, PreTrainedModel

from eval.engine.prefix_tree import Forest
from open_instruct.common.errors import UserError

NAME = "forest"
UNKNOWN = ("softcap", "s_aux")
"""What some models ask of their attention beyond a scale, and this one does not do."""


class Pass(Protocol):
    """One forward pass: how a layer's queries (batch, heads, tokens, size) meet its keys and values."""

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scaling: float) -> torch.Tensor:
        """-> (batch, tokens, heads, size)"""
        ...


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    running: Pass,
    **asked: Any,
) -> tuple[torch.Tensor, None]:
    beyond = [name for name in UNKNOWN if asked.get(name) is not None]
    if beyond:
        raise UserError(f"{type(module).__name__} asks for {', '.join(beyond)}, which cannot be computed here yet")
    return running.attend(module.layer_idx, query, key, value, scaling=scaling), None


AttentionInterface.register(NAME, attend)


@contextmanager
def own_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let `attend` be the model's attention, and the model not be in training, inside the block.

    Raises UserError for a model that does not take transformers' attention interface.
    """
    if not model._can_set_attn_implementation():
        raise UserError(f"{type(model).__name__} has an attention of its own; such models cannot be asked yet")
    before, was_training = model.config._attn_implementation or "eager", model.training
    model.eval()
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
        model.train(was_training)


@dataclass
class Computed:
    """Keys and values of some tokens in every layer, and what the last layer made of the tokens."""

    keys: list[torch.Tensor] = field(default_factory=list)
    """Of each layer, (tokens, key heads, size)."""
    values: list[torch.Tensor] = field(default_factory=list)
    hidden: torch.Tensor | None = None
    """(tokens, hidden)"""

    @property
    def num_tokens(self) -> int:
        return 0 if self.hidden is None else len(self.hidden)

    @property
    def last_hidden(self) -> torch.Tensor:
        """Raises ValueError where nothing was computed."""
        if self.hidden is None:
            raise ValueError("nothing was computed yet")
        return self.hidden

    def part(self, tokens: slice | torch.Tensor) -> "Computed":
        """What was computed for some of the tokens."""
        keys, values = ([layer[tokens] for layer in layers] for layers in (self.keys, self.values))
        return Computed(keys, values, self.last_hidden[tokens])


@dataclass(frozen=True)
class DeviceBucket:
    """A bucket on the model's device, its indices flat."""

    queries: torch.Tensor
    keys: torch.Tensor
    mask: torch.Tensor
    """(rows, 1, queries, keys), added to the logits of the attention."""
    is_query: torch.Tensor | None
    """Which of the flat queries are none of padding; None: all."""


class ForestPass:
    """The pass of a forest. `kept` gathers keys and values of the tokens with the indices `keep`."""

    def __init__(self, forest: Forest, chain: Computed, keep: Sequence[int], *, model: PreTrainedModel) -> None:
        device = model.device
        self.chain = chain
        self.keep = torch.tensor(keep, dtype=torch.long, device=device)
        self.kept = Computed()
        self.buckets = []
        for bucket in forest.buckets():
            sees = torch.from_numpy(bucket.sees).to(device)[:, None]
            mask = torch.zeros(sees.shape, dtype=model.dtype, device=device).masked_fill_(
                ~sees, torch.finfo(model.dtype).min
            )
            is_query = None if bucket.is_query.all() else torch.from_numpy(np.flatnonzero(bucket.is_query)).to(device)
            queries, keys = (torch.from_numpy(part.ravel()).to(device) for part in (bucket.queries, bucket.keys))
            self.buckets.append(DeviceBucket(queries, keys, mask, is_query))

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scaling: float) -> torch.Tensor:
        q, k, v = (part[0].transpose(0, 1) for part in (q, k, v))  # (tokens, heads, size)
        if self.chain.keys:
            k, v = torch.cat([self.chain.keys[layer], k]), torch.cat([self.chain.values[layer], v])
        self.kept.keys.append(k[self.keep])
        self.kept.values.append(v[self.keep])
        found = q.new_empty(q.shape)
        for bucket in self.buckets:
            rows = bucket.mask.shape[0]
            q_rows, k_rows, v_rows = (
                part.index_select(0, index).unflatten(0, (rows, -1)).transpose(1, 2)  # (rows, heads, tokens, size)
                for part, index in ((q, bucket.queries), (k, bucket.keys), (v, bucket.keys))
            )
            out = torch.nn.functional.scaled_dot_product_attention(
                q_rows, k_rows, v_rows, attn_mask=bucket.mask, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
            )
            out = out.transpose(1, 2).flatten(0, 1)  # (rows x queries, heads, size)
            if bucket.is_query is None:
                found.index_copy_(0, bucket.queries, out)
            else:
                found.index_copy_(0, bucket.queries[bucket.is_query], out[bucket.is_query])
        return found[None]


def compute(
    model: PreTrainedModel, forest: Forest, chain: Computed, keep: Sequence[int]
) -> tuple[torch.Tensor, Computed]:
    """One forward pass.  -> hidden states by index (chain first), and what was computed for the tokens `keep`."""
    if not forest.ids:  # these texts are beginnings of the one before
        return chain.last_hidden, chain.part(torch.tensor(keep, dtype=torch.long, device=model.device))
    running = ForestPass(forest, chain, keep, model=model)
    hidden = model.base_model(
        input_ids=torch.tensor(forest.ids, device=model.device)[None],
        position_ids=torch.tensor(forest.positions, device=model.device)[None],
        use_cache=False,
        running=running,
    ).last_hidden_state[0]  # (tokens, hidden)
    if chain.hidden is not None:
        hidden = torch.cat([chain.hidden, hidden])
    running.kept.hidden = hidden[running.keep]
    return hidden, running.kept


def is_lack_of_memory(error: RuntimeError, *, at_least: bool) -> bool:
    """Whether a pass failed for want of memory.  Raises UserError where it was the least that can be asked for."""
    if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
        return False
    if at_least:
        raise UserError("memory does not suffice for a single text; shorten it, or --load_in_float16") from error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return True
