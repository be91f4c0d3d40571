"""Prefix tree of token sequences: a prefix that several sequences share is computed once.

Sequences are sorted by token ids, so that those with a common prefix are neighbours. Each adds a segment: the tokens
that it does not share with the sequence before it. This covers every depth of sharing: the exemplars of an evaluation
set, the context of a request's continuations, the first tokens of two continuations.

    sequences    a b c d    a b c e f    a b g          A row: the segments of one request. A token attends to its
    segments     a b c d          e f        g          ancestors in the tree and to itself.
    positions    0 1 2 3          3 4        2

A forward pass takes as many segments as fit, concatenated without padding. Only attention is padded: rows of similar
size form a bucket and are computed together. The cached prefix of a pass is what its first segment shares with the last
sequence of the pass before. Token indices count the cached prefix first, then the tokens of the pass.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from open_instruct.common.devices import to_device, width_for_kernels

NO_END = 2**31 - 1
"""End of a token whose successors in the row are all its descendants."""
MAX_MASK_ELEMENTS = 2**23
"""Bound on rows x queries x keys of a bucket: 32 MiB in float32."""
MAX_BUCKET_KEYS = {"cpu": 2**15, "cuda": 2**17}
"""Bound on rows x keys of a bucket, whose keys and values are copied: 8 KiB each in float32 at hidden size 2,048."""
CHEAP_PADDING = {"cpu": 2**13, "cuda": 2**19}
"""Padded mask elements that cost less than one more bucket."""


@dataclass(frozen=True)
class Segment:
    """Tokens that a sequence adds to the sequence before it."""

    request: int
    """Index of the request that the sequence belongs to. Segments of one request are neighbours."""
    num_shared: int
    """Length of the prefix that the sequence shares with the one before it."""
    ids: Sequence[int]
    """Token ids after that prefix; may be empty."""


@dataclass
class Row:
    request: int
    first: int
    """Position of the row's first token in the pass."""
    ancestors: np.ndarray
    num_tokens: int = 0
    ended: list[tuple[np.ndarray, int]] = field(default_factory=list)
    """Tokens, and the first later token that is not their descendant, as positions in the row."""

    @property
    def num_keys(self) -> int:
        return len(self.ancestors) + self.num_tokens

    def ends(self) -> np.ndarray:
        """For each token, the position in the row of the first later token that is not its descendant."""
        ends = np.full(self.num_tokens, NO_END, dtype=np.int32)
        for tokens, end in self.ended:
            ends[tokens] = end
        return ends


@dataclass(frozen=True)
class Bucket:
    """Rows whose attention is computed in one call, padded to one size."""

    queries: torch.Tensor
    """(rows x queries,) positions in the pass."""
    keys: torch.Tensor
    """(rows x keys,) indices of the ancestors, then of the row's own tokens."""
    mask: torch.Tensor
    """(rows, 1, queries, keys), added to the attention scores. Padded queries attend to some key, to avoid NaN."""


class PrefixTree:
    """The segments of one forward pass after a cached prefix of `num_cached` tokens."""

    def __init__(self, num_cached: int) -> None:
        self.num_cached = num_cached
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.rows: list[Row] = []
        self.path = np.arange(num_cached)
        """Indices of the tokens of the sequence that was added last."""

    def add(self, segment: Segment) -> None:
        shared, removed = self.path[: segment.num_shared], self.path[segment.num_shared :]
        self.path = shared
        row = self.rows[-1] if self.rows else None
        if row and row.request == segment.request and segment.num_shared >= len(row.ancestors):
            row.ended.append((removed - self.num_cached - row.first, row.num_tokens))
        elif segment.ids:
            row = Row(segment.request, len(self.ids), shared)
            self.rows.append(row)
        if not segment.ids or row is None:
            return
        begin = self.num_cached + len(self.ids)
        self.path = np.concatenate([shared, np.arange(begin, begin + len(segment.ids))])
        self.positions += range(segment.num_shared, segment.num_shared + len(segment.ids))
        self.ids += segment.ids
        row.num_tokens += len(segment.ids)

    def buckets(self, device: torch.device, dtype: torch.dtype) -> tuple[list[Bucket], torch.Tensor]:
        """The rows in buckets, and for each token of the pass its place in the concatenated output of all buckets."""
        buckets, places, num_outputs = [], np.zeros(len(self.ids), dtype=np.int64), 0
        for rows in self._rows_by_size(device.type):
            num_queries = max(row.num_tokens for row in rows)
            for row in rows:
                places[row.first : row.first + row.num_tokens] = np.arange(num_outputs, num_outputs + row.num_tokens)
                num_outputs += num_queries
            buckets.append(self._bucket(rows, num_queries, device, dtype))
        return buckets, to_device(places, device)

    def _rows_by_size(self, device_type: str) -> Iterator[list[Row]]:
        """Rows of similar size together."""
        rows = sorted(self.rows, key=lambda row: (row.num_keys, row.num_tokens))
        begin, width, area = 0, 0, 0
        for number, row in enumerate(rows):
            wider = max(width, row.num_tokens)
            num_padded_keys = (number - begin + 1) * row.num_keys
            padding = num_padded_keys * wider - (area + row.num_keys * row.num_tokens)
            is_full = num_padded_keys > MAX_BUCKET_KEYS[device_type] or num_padded_keys * wider > MAX_MASK_ELEMENTS
            if number > begin and (is_full or padding > CHEAP_PADDING[device_type] + area // 4):
                yield rows[begin:number]
                begin, wider, area = number, row.num_tokens, 0
            width, area = wider, area + row.num_keys * row.num_tokens
        if rows:
            yield rows[begin:]

    def _bucket(self, rows: Sequence[Row], num_queries: int, device: torch.device, dtype: torch.dtype) -> Bucket:
        num_keys = max(row.num_keys for row in rows)
        if device.type == "cuda":
            num_keys = width_for_kernels(num_keys)
        queries = np.zeros((len(rows), num_queries), dtype=np.int64)
        keys = np.zeros((len(rows), num_keys), dtype=np.int64)
        # A key is visible to the queries from its start to its end: to all for an ancestor, to none for padding.
        starts, ends = np.zeros(keys.shape, dtype=np.int32), np.full(keys.shape, NO_END, dtype=np.int32)
        for r, row in enumerate(rows):
            width, num_ancestors = row.num_tokens, len(row.ancestors)
            queries[r, :width] = np.arange(row.first, row.first + width)
            keys[r, :num_ancestors] = row.ancestors
            keys[r, num_ancestors : row.num_keys] = queries[r, :width] + self.num_cached
            starts[r, num_ancestors : row.num_keys] = np.arange(width)
            ends[r, num_ancestors : row.num_keys] = row.ends()
            ends[r, row.num_keys :] = 0
        mask = attention_mask(to_device(starts, device), to_device(ends, device), num_queries, dtype)
        return Bucket(to_device(queries.ravel(), device), to_device(keys.ravel(), device), mask)


def attention_mask(starts: torch.Tensor, ends: torch.Tensor, num_queries: int, dtype: torch.dtype) -> torch.Tensor:
    """Each key is visible to the queries from its start to its end.  (rows, keys) -> (rows, 1, queries, keys)"""
    position = torch.arange(num_queries, dtype=starts.dtype, device=starts.device)[:, None]
    starts, ends = starts[:, None, None], ends[:, None, None]  # (rows, 1, 1, keys)
    is_hidden = (starts > position) | (position >= ends)
    return torch.zeros(is_hidden.shape, dtype=dtype, device=starts.device).masked_fill_(
        is_hidden, torch.finfo(dtype).min
    )


def common_prefix_length(a: Sequence[int], b: Sequence[int]) -> int:
    # By halves: Python compares two lists far faster than a loop compares their elements.
    same, different = 0, min(len(a), len(b)) + 1
    while different - same > 1:
        middle = (same + different) // 2
        if a[same:middle] == b[same:middle]:
            same = middle
        else:
            different = middle
    return same
