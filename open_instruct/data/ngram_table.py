"""A table of the n-grams of few texts, in which those of many documents are looked up.

A text of at least `n` words has n-grams of n words; one of at least SHORT_NGRAM words counts as one n-gram, itself;
shorter ones have none. The 64-bit hash of an n-gram only finds candidates: whatever is reported as found has the same
words.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from open_instruct.data.decontamination import SHORT_NGRAM
from open_instruct.data.ngrams import Hashes, Positions, Words, hash_ngrams, locate_words

FILTER_ENTRIES = 32
"""Of a filter for each n-gram: one n-gram in 32 that is not in the table is looked up in vain."""
SMALLEST_FILTER, LARGEST_FILTER = 2**16, 2**28
"""Entries of one byte."""


@dataclass(frozen=True)
class NgramTable:
    """N-grams by number, which is that of their hash in sorted order."""

    n: int
    words: Words
    """Of all texts."""
    hashes: Hashes
    """(distinct n-grams,) sorted."""
    places: Positions
    """(distinct n-grams,) first word of one occurrence."""
    lengths: NDArray[np.int8]
    """(distinct n-grams,) number of words: n, or those of a short text."""
    numbers: Positions
    """(n-grams,) number of each n-gram of each text, in order."""
    texts: Positions
    """(n-grams,) the text that each is of."""

    @cached_property
    def filters(self) -> dict[int, NDArray[np.bool_]]:
        """Number of words -> whether there may be a hash with these first bits: read for every n-gram of the text."""
        return {n: make_filter(self.hashes[self.lengths == n]) for n in np.unique(self.lengths).tolist()}

    def find(self, documents: Words, is_known: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
        """(number, document) of each n-gram that is not known so far, and is then: marked in `is_known`."""
        for n, may_be in self.filters.items():
            hashes, is_inside = hash_ngrams(documents, n)
            candidates = np.flatnonzero(may_be[hashes >> shift(may_be)])
            candidates = candidates[is_inside[candidates]]
            numbers = np.searchsorted(self.hashes, hashes[candidates])
            numbers[numbers == len(self.hashes)] = 0
            is_new = (self.hashes[numbers] == hashes[candidates]) & ~is_known[numbers]
            for number, place in zip(numbers[is_new].tolist(), candidates[is_new].tolist(), strict=True):
                if not is_known[number] and documents.ngram(place, n) == self.words.ngram(int(self.places[number]), n):
                    is_known[number] = True
                    yield number, int(np.searchsorted(documents.first_words, place, "right")) - 1


def make_filter(hashes: Hashes) -> NDArray[np.bool_]:
    size = min(max(FILTER_ENTRIES * len(hashes), SMALLEST_FILTER), LARGEST_FILTER)
    may_be = np.zeros(1 << (size - 1).bit_length(), np.bool_)
    may_be[hashes >> shift(may_be)] = True
    return may_be


def shift(entries: NDArray[np.bool_]) -> np.uint64:
    """By how many bits a hash is longer than the position in a table of 2^k entries."""
    return np.uint64(64 - (len(entries) - 1).bit_length())


def tabulate_ngrams(texts: Sequence[bytes], n: int) -> NgramTable:
    """The n-grams of texts that are in the form of `normalise_words`."""
    words = locate_words(texts)
    counts = words.counts()
    parts: list[tuple[Hashes, Positions, NDArray[np.int8]]] = []
    for length in range(min(SHORT_NGRAM, n), n + 1):
        has_length = counts == length if length < n else counts >= n
        hashes, is_inside = hash_ngrams(words, length)
        places = np.flatnonzero(is_inside & np.repeat(has_length, counts)[: len(hashes)])
        parts.append((hashes[places], places, np.full(len(places), length, np.int8)))
    hashes, places, lengths = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.argsort(places)
    hashes, places, lengths = hashes[order], places[order], lengths[order]
    distinct, first, numbers = np.unique(hashes, return_index=True, return_inverse=True)
    of_texts = np.repeat(np.arange(len(texts)), counts)[places]
    return NgramTable(n, words, distinct, places[first], lengths[first], numbers, of_texts)
