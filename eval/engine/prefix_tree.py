"""Texts laid out so that a beginning which several of them share is computed once.

The texts are put in order of their token ids, so that texts that begin alike stand side by side, and each adds only
what it does not share with the text before it, a strand. Any depth of sharing comes out of this: the exemplars of a
whole set, the context of an item's alternatives, the first words of two alternatives.

    texts        a b c d    a b c e f    a b g          a row is what one request adds; its tokens attend to their
    strands      a b c d          e f        g          ancestors (wherever these lie) and to themselves
    positions    0 1 2 3          3 4        2

A forward pass takes as many strands as fit, end to end, without padding: padding is for the attention only, where rows
of like size are computed together (a bucket). Of what an earlier pass computed, it is given the chain: the tokens that
its first strand shares with the last strand of that pass. Indices count the chain first, then the tokens of the pass.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

OPEN = 2**31 - 1
"""End of a token whose followers in the row are all its descendants."""
MAX_MASK_ELEMENTS = 2**23
"""Bound on rows x queries x keys of a bucket: 32 MiB in fp32."""
MAX_BUCKET_KEYS = 2**15
"""Bound on rows x keys of a bucket, whose keys and values are copied: 256 MiB each in fp32 at a width of 2,048."""
CHEAP_PADDING = 2**13
"""Padded mask elements that cost less than a bucket more."""

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Strand:
    """What a text adds to the text before it."""

    owner: int
    """The request that the text belongs to. Strands of one owner follow each other."""
    num_shared: int
    """How many first tokens it shares with the text before it."""
    ids: Sequence[int]
    """The tokens after those; may be none."""


@dataclass(frozen=True)
class Row:
    owner: int
    first: int
    """Which token of the pass is the row's first."""
    ancestors: list[int]
    ends: list[int] = field(default_factory=list)
    """For each of its tokens, which token of the row is the first one that does not descend from it."""

    @property
    def num_keys(self) -> int:
        return len(self.ancestors) + len(self.ends)


@dataclass(frozen=True)
class Bucket:
    """Rows whose attention is computed at once, padded to one size."""

    queries: Indices
    """(rows, queries) tokens of the pass."""
    is_query: npt.NDArray[np.bool_]
    """(rows, queries) False where padded."""
    keys: Indices
    """(rows, keys) indices of ancestors, then of the row's own tokens."""
    sees: npt.NDArray[np.bool_]
    """(rows, queries, keys) which query attends to which key. Padded queries attend to something, for want of NaN."""


class Forest:
    """The strands of one forward pass, added one by one."""

    def __init__(self, num_chain: int) -> None:
        self.num_chain = num_chain
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.rows: list[Row] = []
        self.path = list(range(num_chain))
        """Indices of the tokens of the text that was added last."""

    def add(self, strand: Strand) -> None:
        left = self.path[strand.num_shared :]
        del self.path[strand.num_shared :]
        row = self.rows[-1] if self.rows else None
        if row and row.owner == strand.owner and strand.num_shared >= len(row.ancestors):
            for index in left:
                row.ends[index - self.num_chain - row.first] = len(row.ends)
        elif strand.ids:
            row = Row(strand.owner, len(self.ids), self.path.copy())
            self.rows.append(row)
        if not strand.ids or row is None:
            return
        begin = self.num_chain + len(self.ids)
        self.path += range(begin, begin + len(strand.ids))
        self.positions += range(strand.num_shared, strand.num_shared + len(strand.ids))
        self.ids += strand.ids
        row.ends.extend([OPEN] * len(strand.ids))

    def buckets(self) -> Iterator[Bucket]:
        rows = sorted(self.rows, key=lambda row: (row.num_keys, len(row.ends)))
        begin, width, area = 0, 0, 0
        for number, row in enumerate(rows):
            wider = max(width, len(row.ends))
            num_padded_keys = (number - begin + 1) * row.num_keys
            padding = num_padded_keys * wider - (area + row.num_keys * len(row.ends))
            is_full = num_padded_keys > MAX_BUCKET_KEYS or num_padded_keys * wider > MAX_MASK_ELEMENTS
            if number > begin and (is_full or padding > CHEAP_PADDING + area // 4):
                yield self._bucket(rows[begin:number])
                begin, wider, area = number, len(row.ends), 0
            width, area = wider, area + row.num_keys * len(row.ends)
        if rows:
            yield self._bucket(rows[begin:])

    def _bucket(self, rows: Sequence[Row]) -> Bucket:
        num_queries, num_keys = max(len(row.ends) for row in rows), max(row.num_keys for row in rows)
        queries = np.zeros((len(rows), num_queries), dtype=np.int64)
        is_query = np.zeros((len(rows), num_queries), dtype=np.bool_)
        keys = np.zeros((len(rows), num_keys), dtype=np.int64)
        # A key is seen by the queries from its start up to its end: for an ancestor all, for padding none.
        starts, ends = np.zeros_like(keys), np.full_like(keys, OPEN)
        for r, row in enumerate(rows):
            width, above = len(row.ends), len(row.ancestors)
            queries[r, :width] = np.arange(row.first, row.first + width)
            is_query[r, :width] = True
            keys[r, :above] = row.ancestors
            keys[r, above : row.num_keys] = queries[r, :width] + self.num_chain
            starts[r, above : row.num_keys] = np.arange(width)
            ends[r, above : row.num_keys] = row.ends
            ends[r, row.num_keys :] = 0
        step = np.arange(num_queries)[None, :, None]
        sees = (starts[:, None, :] <= step) & (step < ends[:, None, :])
        return Bucket(queries, is_query, keys, sees)


def num_shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many first tokens are the same."""
    for number, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return number
    return min(len(a), len(b))
