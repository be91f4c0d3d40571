"""N-grams of words: 64-bit hashes of all n-grams of many texts at once, without a Python object for a word.

text, text  ->  one buffer of bytes  ->  starts, ends, hashes of its words  ->  hashes of n-grams, none across texts
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from open_instruct.data.words import SPACE

Hashes = NDArray[np.uint64]
Positions = NDArray[np.int64]
CHUNK = 8
"""Bytes of a word that are hashed at once."""
LONG_WORD = 64
"""Words with more bytes are hashed one by one: what has such words is hardly text."""
LOWEST_BYTES = np.array([(1 << 8 * length) - 1 for length in range(CHUNK + 1)], np.uint64)
MULTIPLIERS = tuple(map(np.uint64, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)))
"""Of splitmix64 (Steele et al., 2014): 2^64 divided by the golden ratio, and those of its output function."""
BASE = 0xD6E8FEB86659FD93
"""Odd, so that it has an inverse modulo 2^64."""
INVERSE = pow(BASE, -1, 2**64)


@dataclass(frozen=True)
class Words:
    """The words of several texts, one after the other."""

    buffer: bytes
    """All words, between spaces."""
    starts: Positions
    """(words,) position of each word's first byte."""
    ends: Positions
    """(words,) position after its last byte."""
    sums: Hashes
    """(words + 1,) sums of word hashes times powers of BASE: the hash of any n-gram is made from two of them."""
    first_words: Positions
    """(texts,) index of each text's first word."""

    def counts(self) -> Positions:
        """(texts,) number of words of each text."""
        return np.diff(self.first_words, append=len(self.starts))

    def ngram(self, first: int, n: int) -> bytes:
        """The words from `first` on, a space between each two."""
        places = zip(self.starts[first : first + n].tolist(), self.ends[first : first + n].tolist(), strict=True)
        return b" ".join([self.buffer[start:end] for start, end in places])


def locate_words(texts: Sequence[bytes]) -> Words:
    """The words of texts that are in the form of `normalise_words`."""
    space = bytes([SPACE])
    buffer = space + space.join(texts) + space * CHUNK
    is_space = np.frombuffer(buffer, np.uint8) == SPACE
    edges = np.flatnonzero(is_space[1:] != is_space[:-1]) + 1
    starts, ends = edges[0::2], edges[1::2]
    text_starts = np.cumsum([1] + [len(text) + 1 for text in texts[:-1]])
    sums = np.zeros(len(starts) + 1, np.uint64)
    np.cumsum(hash_words(buffer, starts, ends) * powers(BASE, len(starts)), out=sums[1:])
    return Words(buffer, starts, ends, sums, np.searchsorted(starts, text_starts))


def hash_words(buffer: bytes, starts: Positions, ends: Positions) -> Hashes:
    """(words,) The buffer has at least 8 bytes after the start of each word."""
    chunks = np.ndarray((len(buffer) - CHUNK + 1,), "<u8", buffer, strides=(1,))  # one begins at every byte
    lengths = ends - starts
    hashes = mix(chunks[starts] & LOWEST_BYTES[np.minimum(lengths, CHUNK)])
    longer = np.flatnonzero((lengths > CHUNK) & (lengths <= LONG_WORD))
    for done in range(CHUNK, LONG_WORD, CHUNK):
        longer = longer[lengths[longer] > done]
        chunk = chunks[starts[longer] + done] & LOWEST_BYTES[np.minimum(lengths[longer] - done, CHUNK)]
        hashes[longer] = mix(hashes[longer] * MULTIPLIERS[0] + chunk)
    for index in np.flatnonzero(lengths > LONG_WORD).tolist():
        word = buffer[starts[index] : ends[index]]
        hashes[index] = int.from_bytes(hashlib.blake2b(word, digest_size=8).digest(), "little")
    return hashes


def mix(values: Hashes) -> Hashes:
    """The output function of splitmix64: every bit of the result depends on all bits."""
    values = values + MULTIPLIERS[0]
    values ^= values >> np.uint64(30)
    values *= MULTIPLIERS[1]
    values ^= values >> np.uint64(27)
    values *= MULTIPLIERS[2]
    values ^= values >> np.uint64(31)
    return values


def powers(base: int, number: int) -> Hashes:
    """The first powers of `base` modulo 2^64."""
    return all_powers(base, 1 << number.bit_length())[:number]


@cache
def all_powers(base: int, number: int) -> Hashes:
    factors = np.full(number, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors)


def hash_ngrams(words: Words, n: int) -> tuple[Hashes, NDArray[np.bool_]]:
    """Hashes of the n-grams that begin at each word, and whether each lies in one text.

    -> (words - n + 1,), (words - n + 1,)
    """
    number = max(0, len(words.starts) - n + 1)
    hashes = (words.sums[n:] - words.sums[:number]) * powers(INVERSE, number)
    hashes += np.uint64(n * BASE % 2**64)
    is_inside = np.ones(number, np.bool_)
    for back in range(1, n):
        crossing = words.first_words - back
        is_inside[crossing[(crossing >= 0) & (crossing < number)]] = False
    return hashes, is_inside
