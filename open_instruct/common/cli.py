"""Entry point of every script: arguments by tyro, a user error as one line on stderr with exit code 2.

An option has one name in all scripts; the names of the paper's code and of OLMo-Eval are its aliases.
"""

import dataclasses
import errno
import os
import re
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO, TypeVar, get_type_hints

import tyro

from open_instruct.common.errors import USER_ERROR, UserError
from open_instruct.common.original_options import from_original
from open_instruct.common.paths import REPOSITORY
from open_instruct.common.ranges import require_in_range

Args = TypeVar("Args")
CURES = {
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "set base_dir and data_dir to folders you may write in"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room, then run the same command again"),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR), "a file stands where a folder should, or the other way round"),
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "a link refers to itself; remove it",
}
"""Error number of the operating system that is a user error -> how to fix it."""
DISK_FULL = ("No space left on device", "Disk quota exceeded", "PytorchStreamWriter failed", ". unexpected pos ")
DISK_FULL += ("No usable temporary directory",)
"""In the errors of safetensors, tokenizers, torch.save and tempfile, which have no error number of a full disk."""
SCRIPT = re.compile(r"\bpython (?:-m olmo_eval\.|(?:open_instruct|eval|analysis|scripts)/(?:\w+/)?)(\w+)(?:\.py)?")
"""A command that runs one of the scripts."""
LONGEST_LINE = 1_000
"""Characters of a line of an error: a sentence, with names and paths of any length that is usual."""
IS_INSTALLED = (REPOSITORY / "__init__.py").exists()
"""Whether this is the package amuro of an environment, rather than the repository."""
NO_DISK = ("/proc", "/sys")
"""Folders in which nobody can make a file; their errors call it missing."""


def run(main: Callable[[Args], None], args_type: type[Args]) -> None:
    """Parse the command line into `args_type` and call `main`; exit with code 2 on a user error."""
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # the libraries' progress bars would fill a log
    try:
        main(parse(args_type, from_original(Path(sys.argv[0]).stem, sys.argv[1:])))
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {as_typed(shortened(str(error)))}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and not has_reader(sys.stdout):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is printed on the way out
            sys.exit(1)
        cure = CURES.get(error.errno or 0)
        if str(error.filename).startswith(NO_DISK):
            cure = "nothing can be written there; give a folder on a disk"
        if cure is None:
            raise_unless_disk_is_full(error)
        print(f"error: {error.filename or 'a file'}: {error.strerror}; {cure}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except Exception as error:
        raise_unless_disk_is_full(error)


def raise_unless_disk_is_full(error: BaseException) -> NoReturn:
    """Exit with code 2 where a full disk is what led to the error, whatever a library made of it; else raise it."""
    cause: BaseException | None = error
    while cause is not None:
        is_full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
        if is_full or any(text in str(cause) for text in DISK_FULL):
            print(f"error: a file could not be written to its end; {CURES[errno.ENOSPC]}", file=sys.stderr)
            sys.exit(USER_ERROR)
        cause = cause.__cause__ or cause.__context__
    raise error


def has_reader(output: TextIO) -> bool:
    """Whether the pipe that is printed to, if it is one, is still read: `| head` ends before its writer does."""
    poll = select.poll()
    poll.register(output.fileno(), 0)
    return not any(event & select.POLLERR for _, event in poll.poll(0))


def shortened(message: str) -> str:
    """A message whose lines have at most LONGEST_LINE characters: those that a value makes longer lose their middle."""
    end = LONGEST_LINE // 3
    lines = message.split("\n")
    return "\n".join(f"{x[: LONGEST_LINE - end - 3]} … {x[-end:]}" if len(x) > LONGEST_LINE else x for x in lines)


def as_typed(message: str) -> str:
    """A message with its commands as they are typed here: by the command amuro, where the project is installed."""
    return SCRIPT.sub(r"amuro \1", message) if IS_INSTALLED else message


def parse(args_type: type[Args], arguments: Sequence[str] | None = None) -> Args:
    """The options of a command line (default: this process's).

    Raises UserError for empty values and numbers out of range; SystemExit where tyro refuses it.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if empty := list(empty_values(arguments)):
        raise UserError(f"{', '.join(empty)}: an empty value; give one, or leave the option out")
    description = as_typed(with_line_breaks(sys.modules["__main__"].__doc__ or ""))
    described = with_aliases_and_hints(args_type)
    prog = f"amuro {Path(sys.argv[0]).stem}" if IS_INSTALLED else None
    args = tyro.cli(described, prog=prog, args=arguments, description=description, use_underscores=True)
    require_values(args, arguments)
    require_in_range(args)
    return args


def require_values(args: Any, arguments: Sequence[str]) -> None:
    """Raises UserError for a list of values that is given, or required, without any."""
    given = {argument.partition("=")[0].lstrip("-").replace("-", "_") for argument in arguments}
    for field in dataclasses.fields(args):
        names, value = {field.name, *field.metadata.get("aliases", ())}, getattr(args, field.name)
        if value == () and (field.default is dataclasses.MISSING or names & given):
            raise UserError(f"--{field.name} without a value; expected at least one")


def empty_values(arguments: Sequence[str]) -> Iterator[str]:
    """The options with an empty value, such as that of a variable of the shell that is not set."""
    option = "the command line"
    for argument in arguments:
        if argument.startswith("--"):
            option, equals, value = argument.partition("=")
            if equals and not value:
                yield option
        elif not argument.strip():
            yield option


def option(*aliases: str, default: Any = dataclasses.MISSING) -> Any:
    """A field of a script's arguments that has other names, too."""
    return dataclasses.field(default=default, metadata={"aliases": aliases})


def with_line_breaks(text: str) -> str:
    """A script's docstring for --help, where a line that begins with a letter is joined to the one before."""
    lines: list[str] = []
    for line in text.splitlines():
        is_after_list = bool(lines) and lines[-1].startswith(" ")
        if line[:1].isalpha() and lines and lines[-1] and (is_after_list or line.startswith(("Reads ", "Writes "))):
            lines.append("")
        lines.append(line)
    return "\n".join(lines)


@cache
def with_aliases_and_hints(args_type: type[Any]) -> type[Any]:
    """Takes the aliases of each field, and shows in --help no `(default: None)`: an option's own words say it."""
    hints: dict[str, Any] = get_type_hints(args_type, include_extras=True)
    for field in dataclasses.fields(args_type):
        aliases = [f"--{alias}" for alias in field.metadata.get("aliases", ())]
        hint = "" if field.default is None or field.default == () else None
        if aliases or hint is not None:
            annotated = Annotated[hints[field.name], tyro.conf.arg(aliases=aliases or None, help_behavior_hint=hint)]
            args_type.__annotations__[field.name] = annotated
    return args_type
