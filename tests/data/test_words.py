"""Words are the same in every case, punctuation and Unicode form, and hashed n-grams are those of lists of words."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open_instruct.data.ngrams import LONG_WORD, hash_ngrams, locate_words
from open_instruct.data.text_scan import pieces
from open_instruct.data.words import (
    HAS_IMAGE,
    NEEDS_NORMALISING,
    WORD_CHARACTER,
    characters,
    normal_form,
    normalise_words,
)

WORDS = {
    "Don’t, DON'T": "don t don t",
    "Straße STRASSE ﬁne ½": "strasse strasse fine 1 2",
    "ΟΔΟΣ οδος": "οδοσ οδοσ",
    "caf\u00e9 cafe\u0301 CAFÉ": "café café café",
    "snake_case 3.14": "snake case 3 14",
    "no\u00adbreak\u00a0space zero\u200bwidth": "nobreak space zero width",
    "Tokyo東京タワー。2": "tokyo 東 京 タ ワ ー 2",
    "한국어 \u1112\u1161\u11ab": "한국어 한",
    "हिन्दी": "हिन्दी",
    "🙂 – …": "",
}


@pytest.mark.parametrize("text", WORDS)
def test_words_of_a_text(text):
    assert normalise_words(text).decode().split() == WORDS[text].split()


DROPPED = {*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)}
"""Variation selectors."""


def plain_words(text):
    """The characters of the normal form, one by one."""
    kept = []
    for character in normal_form(text):
        category = unicodedata.category(character)
        if WORD_CHARACTER.match(character) and category[0] in "LNM":
            kept.append(f" {character} ")
        elif ord(character) not in DROPPED and (category != "Cf" or character == "\u200b"):
            kept.append(character if category[0] in "LNM" else " ")
    return "".join(kept).split()


@given(st.text(st.characters(exclude_categories=("Cs", "Cn", "Co"))))
@settings(max_examples=300)
def test_tables_give_the_words_of_the_normal_form(text):
    assert normalise_words(text).decode().split() == plain_words(text)


def test_every_special_character_is_that_of_its_normal_form():
    for code in np.flatnonzero(characters().flags & (HAS_IMAGE | NEEDS_NORMALISING)).tolist():
        text = f"a{chr(code)}é"
        assert normalise_words(text).decode().split() == normalise_words(normal_form(text)).decode().split(), hex(code)


@given(
    st.lists(st.lists(st.sampled_from(["a", "b", "ab", "x" * 9, "x" * 8 + "y", "z" * 65, "z" * 64]))), st.integers(1, 4)
)
def test_equal_hashes_are_equal_ngrams_of_one_text(texts, n):
    assert len("z" * 65) > LONG_WORD
    words = locate_words([" ".join(text).encode() for text in texts])
    hashes, is_inside = hash_ngrams(words, n)
    every = [word for text in texts for word in text]
    of_text = [number for number, text in enumerate(texts) for _ in text]
    found = {}
    for place, ngram in enumerate(zip(*(every[k:] for k in range(n)), strict=False)):
        assert is_inside[place] == (of_text[place] == of_text[place + n - 1])
        assert words.ngram(place, n).decode().split() == list(ngram)
        assert found.setdefault(int(hashes[place]), ngram) == ngram
    assert len(set(found.values())) == len(found)


def test_pieces_of_a_long_text_have_all_of_its_ngrams(monkeypatch):
    monkeypatch.setattr("open_instruct.data.text_scan.PIECE", 2_000)
    words = [f"w{number}" for number in range(3_000)]
    parts = list(pieces(" ".join(words), 13))
    assert max(map(len, parts)) <= 2_000
    found = {tuple(part.split()[k : k + 13]) for part in parts for k in range(len(part.split()) - 12)}
    assert found == {tuple(words[k : k + 13]) for k in range(len(words) - 12)}


def test_a_long_text_without_spaces_is_cut_anyway(monkeypatch):
    monkeypatch.setattr("open_instruct.data.text_scan.PIECE", 2_000)
    assert "".join(pieces("x" * 5_000, 13)) == "x" * 5_000
