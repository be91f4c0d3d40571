"""User errors, exit codes, and suggestions for unknown names."""

import difflib
from collections.abc import Iterable

USER_ERROR = 2
"""Exit code after a user error."""
SAVED_AND_STOPPED = 85
"""Exit code of a stage that received a signal to stop and saved its state: run it again to resume."""


class UserError(Exception):
    """An error that the user can fix. The message says what was found, what was expected, what to type next."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggestion for an unknown name: the closest known names, or all where none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names)}"
