"""The one exception for a user error, and the end of a message about an unknown name."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something only the user can mend. The message says what was found, what was expected, what to type."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the closest known ones, or all where none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names)}"
