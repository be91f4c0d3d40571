"""Entry point of every script: arguments by tyro, a user error as one line on stderr with exit code 2."""

import dataclasses
import errno
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro

from open_instruct.common.errors import USER_ERROR, UserError

Args = TypeVar("Args")
CURES = {
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "set base_dir and data_dir to folders you may write in"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room, then run the same command again"),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR), "a file stands where a folder should, or the other way round"),
}
"""Error number of the operating system that is a user error -> how to fix it."""


def run(main: Callable[[Args], None], args_type: type[Args]) -> None:
    """Parse the command line into `args_type` and call `main`; exit with code 2 on a user error."""
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # the libraries' progress bars would fill a log
    try:
        description = with_line_breaks(sys.modules["__main__"].__doc__ or "")
        main(tyro.cli(without_empty_defaults(args_type), description=description))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except OSError as error:
        if error.errno not in CURES:
            raise
        print(f"error: {error.filename or 'a file'}: {error.strerror}; {CURES[error.errno]}", file=sys.stderr)
        sys.exit(USER_ERROR)


def with_line_breaks(text: str) -> str:
    """A script's docstring for --help, where a line that begins with a letter is joined to the one before."""
    lines: list[str] = []
    for line in text.splitlines():
        is_after_list = bool(lines) and lines[-1].startswith(" ")
        if line[:1].isalpha() and lines and lines[-1] and (is_after_list or line.startswith(("Reads ", "Writes "))):
            lines.append("")
        lines.append(line)
    return "\n".join(lines)


def without_empty_defaults(args_type: type[Args]) -> type[Args]:
    """Without the hint `(default: None)` in --help: what happens then is in an option's own words."""
    hints: dict[str, Any] = get_type_hints(args_type, include_extras=True)
    for field in dataclasses.fields(args_type):  # pyright: ignore[reportArgumentType]
        if field.default is None or field.default == ():
            annotated = Annotated[hints[field.name], tyro.conf.arg(help_behavior_hint="")]
            args_type.__annotations__[field.name] = annotated
    return args_type
