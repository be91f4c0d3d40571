"""The likeliest next word, exactly, without the exact logits of all words.

Where the processor has units for it, every logit is computed in 8-bit integers first, five times as fast as in float32.
How far such a logit can be from the true one is known, so that only words that come near enough to the best can be the
likeliest: of these, some ten of 50,000, the logits are computed in float32. The answer is that of float32. Where too
many words come near, bfloat16 is tried, nearer to float32 and thrice as fast, and at last float32 itself.

Words are looked at in blocks of 16:   best of each block  ->  blocks that may hold the likeliest  ->  their words
"""

from collections.abc import Callable

import torch
from torch.nn.functional import pad
from transformers import PreTrainedModel

from eval.engine.lm_head import (
    SLICE_WORDS,
    most_likely,
    output_embedding,
    refuse_nan,
)

BLOCK = 16
MOST_ROWS = 128
"""Rows that are multiplied at once, into memory that is kept: otherwise it would come anew, page by page, each time."""
FILLED_ROWS = 16
"""Rows are filled up to a multiple: for each number of them, the library keeps a program of its own in memory."""
MOST_BLOCKS = 64
"""Of a row, that may hold the likeliest word. Where there are more, the exact logits of all words cost less."""
PRODUCT_ERRORS = {torch.int8: 2.0**-14, torch.bfloat16: 2.0**-8}
"""Of a product of rounded factors, relative to their norms. Integers are exact; 2^-9 is for rounding a product to
bfloat16. The rest is room for sums in float32."""
multiply_integers: Callable[..., torch.Tensor] | None = getattr(torch, "_int_mm", None)
"""int8 by int8 into int32; torch has none that is public."""


class Likeliest:
    """Calling it finds the likeliest words of a model that does not change meanwhile."""

    def __init__(self, model: PreTrainedModel) -> None:
        head = output_embedding(model)
        self.model, self.weight = model, head.weight
        is_able = head.bias is None and head.weight.dtype == torch.float32
        self.ways = multiplied_fast(head.weight.device) if is_able else []
        """Roundings to try, the fastest first."""
        self.coarse: Coarse | None = None

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """(rows, hidden) -> (rows,) token ids.  Raises UserError for NaN logits."""
        return torch.cat([self.of_few(part) for part in hidden.split(MOST_ROWS)])

    def of_few(self, hidden: torch.Tensor) -> torch.Tensor:
        while self.ways:
            if not self.coarse:
                self.coarse = Coarse(self.weight, self.ways[0])
            candidates = self.coarse.candidates(hidden)
            if candidates:
                rows, words = candidates
                exact = (self.weight[words] * hidden[rows]).sum(-1)  # (candidates,)
                return first_of_best(exact, words, rows, num_rows=len(hidden))
            # What comes next will hardly be easier to tell apart.
            self.ways, self.coarse = self.ways[1:], None
        return most_likely(self.model, hidden)


class Coarse:
    """An output embedding, rounded, and how far its logits are from the true ones at most."""

    def __init__(self, weight: torch.Tensor, dtype: torch.dtype) -> None:
        # Slice by slice, for the sake of memory; words of zeros fill the last block.
        slices = [
            rounded(pad(part, (0, 0, 0, -len(part) % BLOCK)).unflatten(0, (-1, BLOCK)), dtype)
            for part in weight.split(SLICE_WORDS)
        ]
        factors, scales, norms, errors = (torch.cat(parts) for parts in zip(*slices, strict=True))
        self.num_words, self.dtype = len(weight), dtype
        self.weight = factors.flatten(0, 1)  # (words, hidden)
        self.scales = scales  # (blocks, 1)
        self.bounds = torch.stack([norms.amax(1), errors.amax(1)], dim=1)  # (blocks, 2)
        self.logits = torch.empty(0, dtype=torch.int32 if dtype == torch.int8 else dtype)

    def candidates(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """(rows, hidden) -> rows and words that may be the row's likeliest, or None where they are too many.

        Raises UserError for NaN logits.
        """
        factors, scales, norms, errors = (part[:, 0] for part in rounded(hidden[:, None], self.dtype))
        logits = self.multiply(pad(factors, (0, 0, 0, -len(hidden) % FILLED_ROWS)).T)  # (blocks, BLOCK, filled rows)
        best = logits.amax(1)[:, : len(hidden)] * self.scales  # (blocks, rows), in units of the row's scale
        refuse_nan(best.amax(0))
        # true - rounded = (h - h') w + h' (w - w'), where h' and w' are the rounded factors: not above
        # |h - h'| |w| + |h'| |w - w'|
        of_rows = torch.stack([errors + PRODUCT_ERRORS[self.dtype] * norms, norms + errors]) / scales  # (2, rows)
        bounds = self.bounds @ of_rows  # (blocks, rows)
        if not bounds.sum().isfinite():
            return None
        least = (best - bounds).amax(0)  # (rows,): the likeliest has no lower logit
        rows, blocks = (best + bounds >= least).T.nonzero(as_tuple=True)  # in the order of the rows
        if len(rows) > MOST_BLOCKS * len(hidden):
            return None
        highest = logits[blocks, :, rows] * self.scales[blocks] + bounds[blocks, rows][:, None]  # (candidates, BLOCK)
        words = blocks[:, None] * BLOCK + torch.arange(BLOCK)
        may_be = (highest >= least[rows][:, None]) & (words < self.num_words)
        return rows[:, None].expand_as(words)[may_be], words[may_be]

    def multiply(self, factors: torch.Tensor) -> torch.Tensor:
        """(hidden, rows) -> logits (blocks, BLOCK, rows), which the next call overwrites."""
        num_logits = len(self.weight) * factors.shape[1]
        if num_logits > len(self.logits):
            self.logits = self.logits.new_empty(num_logits)
        logits = self.logits[:num_logits].view(len(self.weight), -1)
        multiply = multiply_integers if multiply_integers and self.dtype == torch.int8 else torch.mm
        return multiply(self.weight, factors, out=logits).unflatten(0, (-1, BLOCK))


def rounded(vectors: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(groups, vectors, size) -> the same rounded, in units of each group's scale (groups, 1); norms of the vectors,
    and of what rounding changed (groups, vectors)."""
    if dtype == torch.int8:
        scales = vectors.abs().amax((1, 2)).clamp(min=torch.finfo(vectors.dtype).tiny)[:, None] / 127
        factors = (vectors / scales[:, None]).round_()
    else:
        scales, factors = vectors.new_ones(len(vectors), 1), vectors.to(dtype)
    errors = (vectors - factors * scales[:, None]).norm(dim=2)
    return factors.to(dtype), scales, vectors.norm(dim=2), errors


def first_of_best(exact: torch.Tensor, words: torch.Tensor, rows: torch.Tensor, *, num_rows: int) -> torch.Tensor:
    """Each row's word of highest logit, the first of equals; (candidates,) each -> (rows,)"""
    top = exact.new_full((num_rows,), -torch.inf).scatter_reduce(0, rows, exact, "amax")
    words = words.where(exact == top[rows], torch.iinfo(words.dtype).max)
    return words.new_full((num_rows,), torch.iinfo(words.dtype).max).scatter_reduce(0, rows, words, "amin")


def multiplied_fast(device: torch.device) -> list[torch.dtype]:
    """What the processor has units for; without them, it would be a hundred times slower than float32."""
    if device.type != "cpu":
        return []
    able = torch.cpu.get_capabilities()
    # Units for 8 bits that are older than these saturate their sums.
    fast = {
        torch.int8: able.get("avx512_vnni") and multiply_integers,
        torch.bfloat16: able.get("avx512_bf16") or able.get("amx_bf16"),
    }
    return [dtype for dtype, is_able in fast.items() if is_able]
