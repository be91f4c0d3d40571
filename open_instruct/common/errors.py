"""User errors, exit codes, and suggestions for unknown names."""

import difflib
from collections.abc import Iterable

USER_ERROR = 2
"""Exit code after a user error."""
SAVED_AND_STOPPED = 85
"""Exit code of a stage that received a signal to stop and saved its state: run it again to resume."""
MOST_NAMED = 20
"""Known names that a message lists."""


class UserError(Exception):
    """An error that the user can fix. The message says what was found, what was expected, what to type next."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggestion for an unknown name: the closest known names or, where none is close, the first of all."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"known: {', '.join(names[:MOST_NAMED])}{more}"
