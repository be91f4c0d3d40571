"""Entry point of every script: arguments by tyro, a user error as one line on stderr with exit code 2."""

import errno
import os
import sys
from collections.abc import Callable
from typing import TypeVar

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
        main(tyro.cli(args_type, description=sys.modules["__main__"].__doc__))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except OSError as error:
        if error.errno not in CURES:
            raise
        print(f"error: {error.filename or 'a file'}: {error.strerror}; {CURES[error.errno]}", file=sys.stderr)
        sys.exit(USER_ERROR)
