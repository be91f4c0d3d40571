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

NO_END = 2**31 - 1
"""End of a token whose successors in the row are all its descendants."""
MAX_MASK_ELEMENTS = 2**23
"""Bound on rows x queries x keys of a bucket: 32 MiB in float32."""
MAX_BUCKET_KEYS = 2**15
"""Bound on rows x keys of a bucket, whose keys and values are copied: 256 MiB each in float32 at hidden size 2,048."""
CHEAP_PADDING = 2**13
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


@dataclass(frozen=True)
class Row:
    request: int
    first: int
    """Position of the row's first token in the pass."""
    ancestors: list[int]
    ends: list[int] = field(default_factory=list)
    """For each token, the position in the row of the first later token that is not its descendant."""

    @property
    def num_keys(self) -> int:
        return len(self.ancestors) + len(self.ends)


@dataclass(frozen=True)
class Bucket:
    """Rows whose attention is computed in one call, padded to one size."""

    queries: torch.Tensor
    """(rows x queries,) positions in the pass."""
    unpadded: torch.Tensor
    """Which of `queries` are not padding."""
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
        self.path = list(range(num_cached))
        """Indices of the tokens of the sequence that was added last."""

    def add(self, segment: Segment) -> None:
        removed = self.path[segment.num_shared :]
        del self.path[segment.num_shared :]
        row = self.rows[-1] if self.rows else None
        if row and row.request == segment.request and segment.num_shared >= len(row.ancestors):
            for index in removed:
                row.ends[index - self.num_cached - row.first] = len(row.ends)
        elif segment.ids:
            row = Row(segment.request, len(self.ids), self.path.copy())
            self.rows.append(row)
        if not segment.ids or row is None:
            return
        begin = self.num_cached + len(self.ids)
        self.path += range(begin, begin + len(segment.ids))
        self.positions += range(segment.num_shared, segment.num_shared + len(segment.ids))
        self.ids += segment.ids
        row.ends.extend([NO_END] * len(segment.ids))

    def buckets(self, device: torch.device, dtype: torch.dtype) -> Iterator[Bucket]:
        rows = sorted(self.rows, key=lambda row: (row.num_keys, len(row.ends)))
        begin, width, area = 0, 0, 0
        for number, row in enumerate(rows):
            wider = max(width, len(row.ends))
            num_padded_keys = (number - begin + 1) * row.num_keys
            padding = num_padded_keys * wider - (area + row.num_keys * len(row.ends))
            is_full = num_padded_keys > MAX_BUCKET_KEYS or num_padded_keys * wider > MAX_MASK_ELEMENTS
            if number > begin and (is_full or padding > CHEAP_PADDING + area // 4):
                yield self._bucket(rows[begin:number], device, dtype)
                begin, wider, area = number, len(row.ends), 0
            width, area = wider, area + row.num_keys * len(row.ends)
        if rows:
            yield self._bucket(rows[begin:], device, dtype)

    def _bucket(self, rows: Sequence[Row], device: torch.device, dtype: torch.dtype) -> Bucket:
        num_queries, num_keys = max(len(row.ends) for row in rows), max(row.num_keys for row in rows)
        queries = np.zeros((len(rows), num_queries), dtype=np.int64)
        is_query = np.zeros((len(rows), num_queries), dtype=np.bool_)
        keys = np.zeros((len(rows), num_keys), dtype=np.int64)
        # A key is visible to the queries from its start to its end: to all for an ancestor, to none for padding.
        starts, ends = np.zeros_like(keys), np.full_like(keys, NO_END)
        for r, row in enumerate(rows):
            width, num_ancestors = len(row.ends), len(row.ancestors)
            queries[r, :width] = np.arange(row.first, row.first + width)
            is_query[r, :width] = True
            keys[r, :num_ancestors] = row.ancestors
            keys[r, num_ancestors : row.num_keys] = queries[r, :width] + self.num_cached
            starts[r, num_ancestors : row.num_keys] = np.arange(width)
            ends[r, num_ancestors : row.num_keys] = row.ends
            ends[r, row.num_keys :] = 0
        position = np.arange(num_queries)[None, :, None]
        is_visible = torch.from_numpy((starts[:, None, :] <= position) & (position < ends[:, None, :]))[:, None]
        mask = torch.zeros(is_visible.shape, dtype=dtype).masked_fill_(~is_visible, torch.finfo(dtype).min)
        indices = (
            torch.from_numpy(part).to(device) for part in (queries.ravel(), np.flatnonzero(is_query), keys.ravel())
        )
        return Bucket(*indices, mask=mask.to(device))


def common_prefix_length(a: Sequence[int], b: Sequence[int]) -> int:
    for length, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return length
    return min(len(a), len(b))
