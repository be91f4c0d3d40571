"""How every script starts and ends: arguments by tyro, UserError as one line on stderr with exit code 2."""

import difflib
import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

import tyro

from open_instruct.records import UserError

Args = TypeVar("Args")


def run(main: Callable[[Args], None], args_type: type[Args]) -> None:
    """Parse the command line into `args_type`, call `main`, and end with exit code 2 on a UserError."""
    try:
        main(tyro.cli(args_type, description=sys.modules["__main__"].__doc__))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the closest known ones, or all where none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names)}"
