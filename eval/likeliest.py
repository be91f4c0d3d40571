"""The likeliest next word, exactly, without the exact logits of all words.

Where the processor multiplies bfloat16, four times as fast as float32, every logit is computed in bfloat16 first. There
is a bound to how far such a logit is from the true one, so that only words within twice that bound of the best can be
the likeliest: of these, a few of 50,000, the logits are computed in float32. The answer is that of float32.

Words are looked at in blocks of 16:   best of each block  ->  blocks that may hold the likeliest  ->  their words
"""

import torch
from torch.nn.functional import pad
from transformers import PreTrainedModel

from eval.vocabulary import most_likely, output_embedding, refuse_nan

BLOCK = 16
LEAST_ROWS = 8
"""For fewer, reading the weights is all the work."""
MOST_BLOCKS = 64
"""Of a row, that may hold the likeliest word. Where there are more, the exact logits of all words cost less."""
RELATIVE_ERROR = 2.0**-7
"""Of a bfloat16 logit, relative to the norms of its factors: 2^-9 for rounding each of hidden state, weight and result;
the rest is room for their products, and for sums in float32."""


class Likeliest:
    """Calling it finds the likeliest words of a model that does not change meanwhile."""

    def __init__(self, model: PreTrainedModel) -> None:
        head = output_embedding(model)
        self.model, self.weight, self.coarse = model, head.weight, None
        if head.bias is None and head.weight.dtype == torch.float32 and multiplies_bfloat16(head.weight.device):
            # Words of zeros fill the last block.
            self.coarse = pad(head.weight, (0, 0, 0, -len(head.weight) % BLOCK)).bfloat16()
            self.largest_norm = head.weight.norm(dim=1).max()

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """(rows, hidden) -> (rows,) token ids.  Raises UserError for NaN logits."""
        if self.coarse is None or len(hidden) < LEAST_ROWS:
            return most_likely(self.model, hidden)
        logits = self.coarse @ hidden.bfloat16().T  # (words, rows)
        best = logits.view(-1, BLOCK, len(hidden)).amax(1).float()  # (blocks, rows)
        refuse_nan(best)
        bound = RELATIVE_ERROR * hidden.norm(dim=1) * self.largest_norm  # (rows,)
        rows, blocks = (best >= best.amax(0) - 2 * bound).T.nonzero(as_tuple=True)  # in the order of the rows
        if len(rows) > MOST_BLOCKS * len(hidden) or not bound.isfinite().all():
            return most_likely(self.model, hidden)
        words = blocks[:, None] * BLOCK + torch.arange(BLOCK)  # (candidates, BLOCK)
        words = words.clamp(max=len(self.weight) - 1)
        weights = self.weight.index_select(0, words.flatten()).view(*words.shape, -1)  # (candidates, BLOCK, hidden)
        exact = (weights @ hidden[rows][:, :, None])[:, :, 0]  # (candidates, BLOCK)
        return first_of_best(exact, words, rows, num_rows=len(hidden))


def first_of_best(exact: torch.Tensor, words: torch.Tensor, rows: torch.Tensor, *, num_rows: int) -> torch.Tensor:
    """Each row's word of highest logit, the first of equals; (candidates, BLOCK) twice, (candidates,) -> (rows,)"""
    top = exact.new_full((num_rows,), -torch.inf).scatter_reduce(0, rows, exact.amax(1), "amax")
    is_top = exact == top[rows][:, None]
    of_block = words.where(is_top, torch.iinfo(words.dtype).max).amin(1)
    return words.new_full((num_rows,), torch.iinfo(words.dtype).max).scatter_reduce(0, rows, of_block, "amin")


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the processor has units for it; without them, it would be a hundred times slower than float32."""
    if device.type != "cpu":
        return False
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
