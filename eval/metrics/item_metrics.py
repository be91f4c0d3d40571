"""Metrics by kind of evaluation set: per item where a metric allows it, so that models can be compared item by item.

generation   ROUGE-L (primary), exact match (of the final number, where the set says so)
labels       accuracy (primary), chance-corrected accuracy, macro F1
text         bits per byte (primary); the other kinds have it too, of their gold completions
"""

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from string import ascii_lowercase, digits

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import LCSseq

from open_instruct.common.errors import UserError

SEPARATORS_TO_SPACES = bytes(byte if chr(byte) in ascii_lowercase + digits else ord(" ") for byte in range(256))
"""Table for bytes.translate: all bytes of a non-ASCII letter become spaces, like every other separator."""

NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")
MARKED_NUMBER = re.compile(rf"####\s*({NUMBER.pattern})")

Array = npt.NDArray[np.float64]


def rouge_tokens(text: str) -> list[str]:
    """Lower-cased runs of a-z and 0-9, as rouge_score splits text (any other letter separates two tokens)."""
    # Four times as fast as a regular expression, which was most of the time of ROUGE-L.
    return text.lower().encode("utf-8", "surrogatepass").translate(SEPARATORS_TO_SPACES).decode("ascii").split()


def rouge_l(outputs: Sequence[str], references: Sequence[str]) -> Array:
    """ROUGE-L F1 of each output, without stemming: 0 to 1, and 0 where either side has no token.  -> (items,)"""
    pairs = zip(outputs, references, strict=True)
    return np.array([rouge_l_f1(rouge_tokens(output), rouge_tokens(reference)) for output, reference in pairs])


def rouge_l_f1(output: list[str], reference: list[str]) -> float:
    common = LCSseq.similarity(output, reference)
    # The harmonic mean of common / len(output) and common / len(reference).
    return 2 * common / (len(output) + len(reference)) if common else 0.0


def exact_match(outputs: Sequence[str], references: Sequence[str]) -> Array:
    """1 where both texts are equal after removing surrounding white space, else 0.  -> (items,)"""
    pairs = zip(outputs, references, strict=True)
    return np.array([float(output.strip() == reference.strip()) for output, reference in pairs])


def answers(texts: Sequence[str], answer: str | None) -> list[str]:
    """What exact match compares of each text: all of it, or its `final_number`."""
    return list(texts) if answer is None else [FINAL_ANSWERS[answer](text) for text in texts]


def final_number(text: str) -> str:
    """The number after the first `####`, else the last one before another `Question:`; "none" where there is none.

    1,200.50 and $1200.5 are the same. Source: the strict and the flexible rule of lm-evaluation-harness for GSM8K.
    """
    marked = MARKED_NUMBER.search(text)
    found = [marked[1]] if marked else NUMBER.findall(text.partition("Question:")[0])
    return f"{Decimal(found[-1].replace(',', '').replace('$', '')).normalize():f}" if found else "none"


FINAL_ANSWERS = {"final_number": final_number}
"""`EvalSet.answer` -> function from a text to its answer."""


def chance_corrected(is_correct: Array, num_labels: npt.ArrayLike) -> Array:
    """Accuracy rescaled so that random guessing is 0 and always correct is 1.  (items,) -> (items,)

    Raises UserError where an item has a single label.
    """
    chance = 1 / np.asarray(num_labels, dtype=np.float64)
    if (chance >= 1).any():
        raise UserError("found an item with fewer than two labels; expected at least two to choose from")
    return (is_correct - chance) / (1 - chance)


def confusion(predicted: Sequence[str], gold: Sequence[str]) -> npt.NDArray[np.int64]:
    """Confusion matrix: gold labels in rows, predicted labels in columns.  -> (labels, labels)

    The labels are those that occur on either side, sorted.
    """
    labels = sorted({*predicted, *gold})
    index = {label: i for i, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(counts, ([index[g] for g in gold], [index[p] for p in predicted]), 1)
    return counts


def macro_f1(counts: npt.NDArray[np.int64]) -> Array:
    """Mean over labels of F1 = 2 hits / (times gold + times predicted), 0 to 1.  (..., labels, labels) -> (...)

    A label that occurs in neither (as happens in a resample) is left out of the mean.
    """
    hits = np.diagonal(counts, axis1=-2, axis2=-1)  # (..., labels)
    occurrences = counts.sum(axis=-1) + counts.sum(axis=-2)
    f1 = 2 * hits / np.maximum(occurrences, 1)
    return f1.sum(axis=-1) / (occurrences > 0).sum(axis=-1)


def bits(log_probabilities: Sequence[float]) -> Array:
    """Log-likelihoods in nats as code lengths in bits.  (items,) -> (items,)"""
    return np.negative(log_probabilities) / math.log(2)


def utf8_lengths(texts: Sequence[str]) -> npt.NDArray[np.int64]:
    """Bytes of each text.  -> (items,)"""
    return np.array([len(text.encode()) for text in texts], dtype=np.int64)
