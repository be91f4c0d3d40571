"""The label that a text stands for: generations, and label predictions that were made elsewhere."""

import re
from collections.abc import Sequence


def label_in(text: str, labels: Sequence[str], parse_order: Sequence[str] = ()) -> str:
    """The label that the text begins with, else the whole text, which is wrong.

    With `parse_order`: the first of these labels that occurs anywhere in the text, as in the paper.
    """
    if parse_order:
        return next((label for label in parse_order if label in text), text)
    by_length = sorted(labels, key=len, reverse=True)  # one may begin another
    match = re.match(rf"({'|'.join(map(re.escape, by_length))})(?!\w)", text)
    return match[1] if match else text
