"""Forward pass over a prefix tree, through any model that uses transformers' attention interface.

During the pass the model's attention is `attend`, which calls the attention of the pass. Everything else in the model
works on single tokens, and so on concatenated sequences.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface, PreTrainedModel

from eval.engine.prefix_tree import PrefixTree
from open_instruct.common.devices import to_device
from open_instruct.common.errors import UserError

NAME = "prefix_tree"
BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Without cuDNN's, which is prepared anew for every shape: passes have many."""
UNSUPPORTED = ("softcap", "s_aux", "an attention mask of its own")
"""Arguments by which some models change attention beyond a scale, though before training perhaps by nothing."""


Attend = Callable[..., torch.Tensor]
"""Attention of one forward pass: (layer, queries, keys, values, scaling) -> output (batch, tokens, heads, size).

Queries, keys and values are (batch, heads, tokens, size)."""


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    tree_attention: Attend,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    options["an attention mask of its own"] = attention_mask
    unsupported = [name for name in UNSUPPORTED if options.get(name) is not None]
    if unsupported:
        raise UserError(
            f"{type(module).__name__} needs {', '.join(unsupported)} in its attention, which is not supported"
        )
    return tree_attention(module.layer_idx, query, key, value, scaling=scaling), None


AttentionInterface.register(NAME, attend)


@contextmanager
def prefix_attention(model: PreTrainedModel) -> Iterator[None]:
    """Make `attend` the model's attention and put the model into evaluation mode, inside the block.

    Raises UserError for a model that does not use transformers' attention interface.
    """
    if not model._can_set_attn_implementation():
        raise UserError(
            f"{type(model).__name__} does not use transformers' attention interface; such models are not supported"
        )
    before, was_training = model.config._attn_implementation or "eager", model.training
    model.eval()
    model.set_attn_implementation(NAME)
    try:
        with sdpa_kernel(BACKENDS):
            yield
    finally:
        model.set_attn_implementation(before)
        model.train(was_training)


@dataclass
class TokenStates:
    """Keys and values of some tokens in every layer, and their last hidden states."""

    keys: list[torch.Tensor] = field(default_factory=list)
    """For each layer, (tokens, key heads, size)."""
    values: list[torch.Tensor] = field(default_factory=list)
    hidden: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    """(tokens, hidden)"""

    @property
    def num_tokens(self) -> int:
        return len(self.hidden)

    def select(self, tokens: slice | torch.Tensor) -> "TokenStates":
        keys, values = ([layer[tokens] for layer in layers] for layers in (self.keys, self.values))
        return TokenStates(keys, values, self.hidden[tokens])


def forward(
    model: PreTrainedModel, tree: PrefixTree, cached: TokenStates, keep: np.ndarray
) -> tuple[torch.Tensor, TokenStates]:
    """One forward pass.  -> last hidden states by index (cached prefix first), and the states of the tokens `keep`."""
    kept_indices = to_device(keep, model.device)
    if not tree.ids:  # every sequence is a prefix of the one before
        return cached.hidden, cached.select(kept_indices)
    kept = TokenStates()
    buckets, places = tree.buckets(model.device, model.dtype)

    def tree_attention(
        layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scaling: float
    ) -> torch.Tensor:
        q, k, v = (part[0].transpose(0, 1) for part in (q, k, v))  # (tokens, heads, size)
        if cached.keys:
            k, v = torch.cat([cached.keys[layer], k]), torch.cat([cached.values[layer], v])
        kept.keys.append(k[kept_indices])
        kept.values.append(v[kept_indices])
        outputs = []
        for bucket in buckets:
            rows = bucket.mask.shape[0]
            q_rows, k_rows, v_rows = (
                part.index_select(0, index).unflatten(0, (rows, -1)).transpose(1, 2)  # (rows, heads, tokens, size)
                for part, index in ((q, bucket.queries), (k, bucket.keys), (v, bucket.keys))
            )
            out = torch.nn.functional.scaled_dot_product_attention(
                q_rows, k_rows, v_rows, attn_mask=bucket.mask, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
            )
            outputs.append(out.transpose(1, 2).flatten(0, 1))  # (rows x queries, heads, size)
        return torch.cat(outputs).index_select(0, places)[None]

    hidden = model.base_model(
        input_ids=to_device(np.array(tree.ids), model.device)[None],
        position_ids=to_device(np.array(tree.positions), model.device)[None],
        use_cache=False,
        tree_attention=tree_attention,
    ).last_hidden_state[0]  # (tokens, hidden)
    if cached.num_tokens:
        hidden = torch.cat([cached.hidden, hidden])
    kept.hidden = hidden[kept_indices]
    return hidden, kept


def is_out_of_memory(error: RuntimeError, *, is_smallest: bool) -> bool:
    """Whether a pass ran out of memory.  Raises UserError where a smaller pass is not possible."""
    if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
        return False
    if is_smallest:
        raise UserError("out of memory for a single sequence; shorten it, or add --dtype bfloat16") from error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return True
