"""Words of text, compared without case, punctuation and Unicode form: each text as bytes, its words between spaces.

A word is a longest run of letters, digits and combining marks of any script (Unicode categories L, N, M) after the text
is normalised (NFKC), case-folded and normalised again. A Han character or kana is a word by itself, since no spaces are
between words there. Characters without width, such as soft hyphens, are left out; everything else separates words.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray

SPACE = 0x20
ASCII = bytes(ord(chr(code).lower()) if chr(code).isalnum() else SPACE for code in range(128)) + bytes([SPACE]) * 128
"""Byte of an ASCII text -> the byte of its word, or a space."""
NUM_CODES = 0x110000
NEEDS_NORMALISING, HAS_IMAGE, IS_WORD = 1, 2, 4
JAMO = ((0x1100, 0x11FF), (0xA960, 0xA97F), (0xD7B0, 0xD7FF))
"""Parts of Hangul syllables, which are composed."""
WORD_CHARACTERS = ((0x3041, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF))
"""Kana and Han."""
WORD_CHARACTER = re.compile(f"[{''.join(f'{chr(first)}-{chr(last)}' for first, last in WORD_CHARACTERS)}]+")
VARIATION_SELECTORS = ((0xFE00, 0xFE0F), (0xE0100, 0xE01EF))
ZERO_WIDTH_SPACE = 0x200B


@dataclass(frozen=True)
class Characters:
    """Tables over all code points."""

    folded: NDArray[np.uint32]
    """The character's normal form, a space where it separates words, itself where it has an image."""
    flags: NDArray[np.uint8]
    """NEEDS_NORMALISING: the normal form depends on the characters around; HAS_IMAGE: it is not one character;
    IS_WORD: it has Han or kana."""
    images: Mapping[str, str]
    """Character -> the form that is not one character."""


def normalise_words(text: str) -> bytes:
    """The words of a text in UTF-8, between spaces."""
    if text.isascii():
        return text.encode().translate(ASCII)
    tables, codes = characters(), code_points(text)
    flags = tables.flags[codes]
    kinds = np.bitwise_or.reduce(flags)
    if kinds & NEEDS_NORMALISING:
        codes = code_points(normal_form(text))
        flags = tables.flags[codes]
        kinds = np.bitwise_or.reduce(flags, initial=0)
    words = tables.folded[codes].astype("<u4", copy=False).tobytes().decode("utf-32-le")
    if kinds & HAS_IMAGE:
        words = with_images(words, np.flatnonzero(flags & HAS_IMAGE).tolist(), tables.images)
    if kinds & IS_WORD:
        words = WORD_CHARACTER.sub(lambda run: f" {' '.join(run[0])} ", words)
    return words.encode()


def normal_form(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return unicodedata.normalize("NFKC", folded)


def code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "replace"), "<u4")


def with_images(text: str, places: Iterable[int], images: Mapping[str, str]) -> str:
    parts, end = list[str](), 0
    for place in places:
        parts += (text[end:place], images[text[place]])
        end = place + 1
    return "".join([*parts, text[end:]])


@cache
def characters() -> Characters:
    """Takes half a second, once."""
    folded, flags = np.full(NUM_CODES, SPACE, np.uint32), np.zeros(NUM_CODES, np.uint8)
    images, dropped = dict[str, str](), {*in_ranges(VARIATION_SELECTORS)}
    for code in in_ranges(JAMO):
        flags[code] |= NEEDS_NORMALISING
    for code in range(NUM_CODES):
        character = chr(code)
        category = unicodedata.category(character)
        if category in ("Cn", "Co", "Cs"):  # without a meaning
            continue
        form = normal_form(character)
        image = "".join(part if unicodedata.category(part)[0] in "LNM" else " " for part in form)
        if code in dropped or (category == "Cf" and code != ZERO_WIDTH_SPACE):
            image = ""
        folded[code] = ord(image) if len(image) == 1 else code
        if len(image) != 1:
            images[character] = image
            flags[code] |= HAS_IMAGE
        if WORD_CHARACTER.search(image):
            flags[code] |= IS_WORD
        if unicodedata.combining(character) or any(map(unicodedata.combining, form)):
            flags[code] |= NEEDS_NORMALISING
        decomposed = unicodedata.decomposition(character).split()
        if len(decomposed) == 2 and not decomposed[0].startswith("<"):
            flags[int(decomposed[1], 16)] |= NEEDS_NORMALISING
    return Characters(folded, flags, images)


def in_ranges(ranges: Iterable[tuple[int, int]]) -> Iterator[int]:
    return chain.from_iterable(range(first, last + 1) for first, last in ranges)
