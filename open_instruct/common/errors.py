"""User errors, exit codes, and the end of a message about an unknown name."""

import difflib
from collections.abc import Iterable

USER_ERROR = 2
"""Exit code of a script that found a user error."""
SAVED_AND_STOPPED = 85
"""Exit code of a stage that was told to stop and saved its state: run it again and it continues."""


class UserError(Exception):
    """A fault that the user can mend. The message says what was found, what was expected, what to type next."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the closest known ones, or all where none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names)}"
