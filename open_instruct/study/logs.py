"""What a job's log says: its last line while the job runs, and the line that tells why it failed."""

import re
import sysconfig
from pathlib import Path

from open_instruct.common import paths

TAIL_BYTES = 4096
FAILURE_BYTES = 2**18
"""Of the end of a log, in which the failure is looked for: warnings may follow it."""
MOST_CHARACTERS = 300
"""Of a line that is shown."""
FRAME = re.compile(r'^\s+File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>.+)$')
EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(:\s.*)?$")
LAUNCHERS = ("CalledProcessError", "ChildFailedError")
"""What launchers raise after the process that they started has failed; its own error precedes it."""
LAUNCHED_KILLED = re.compile(
    r"died with <Signals\.\w+: (?P<one>\d+)>|Root Cause.*?Signal (?P<several>\d+) \(SIG", re.DOTALL
)
"""What accelerate says of the one process that it started, and torch of the first of several that ended."""
PROGRAM_ERROR = re.compile(r"^[\w./ -]+: (fatal )?error: ", re.IGNORECASE)
"""As compilers and Slurm's daemons print it: `slurmstepd: error: Detected 1 oom-kill event(s)`."""
WARNING = re.compile(r"warning|\bwarn\b|deprecated", re.IGNORECASE)
PROGRESS_BAR = re.compile(r"\d+%\||(it|s)/(s|it)[\],]")


def tail(path: Path, *, offset: int = 0, num_bytes: int = TAIL_BYTES) -> str:
    """The last bytes of a file, none of them before `offset`; empty where there is no file."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(offset, path.stat().st_size - num_bytes))
        return file.read().decode(errors="replace")


def last_line(log: Path, *, offset: int = 0) -> str:
    """The last line of a log; of a progress bar, its last state. Empty where there is none."""
    lines = re.split(r"[\r\n]", tail(log, offset=offset))
    return next((line.strip()[-MOST_CHARACTERS:] for line in reversed(lines) if line.strip()), "")


def failure_line(log: Path, *, offset: int = 0) -> str:
    """Why the attempt whose output begins at `offset` failed. Empty where its log says nothing.

    The last line `error: …`; else the exception of the last traceback, with the place in the code of this project or
    the user where it passed; else the last error of another program; else the last line that is no warning and no
    progress bar.
    """
    lines = finished_lines(tail(log, offset=offset, num_bytes=FAILURE_BYTES))
    own = own_errors(lines)
    program = [line for line in lines if PROGRAM_ERROR.match(line) and not WARNING.search(line)]
    found = own[-1:] or raised(lines)[-1:] or program[-1:] or plain_lines(lines)[-1:]
    return shortened(found[0].strip()) if found else ""


def signal_of_launched(log: Path, *, offset: int = 0) -> int | None:
    """Number of the signal that ended the process which a launcher had started; the launcher itself exits with 1."""
    text = tail(log, offset=offset, num_bytes=FAILURE_BYTES)
    match = LAUNCHED_KILLED.search(text)
    return int(match["one"] or match["several"]) if match and not own_errors(finished_lines(text)) else None


def finished_lines(text: str) -> list[str]:
    """The lines as a terminal shows them in the end: of a progress bar its last state."""
    return [line.rpartition("\r")[2].rstrip() for line in text.replace("\r\n", "\n").split("\n")]


def own_errors(lines: list[str]) -> list[str]:
    """The messages `error: …` of this project's scripts; of a list, its first line too."""
    following = [*lines[1:], ""]
    return [
        f"{line} {after.strip()}" if line.endswith(":") else line
        for line, after in zip(lines, following, strict=True)
        if line.startswith("error: ")
    ]


def shortened(line: str) -> str:
    half = MOST_CHARACTERS // 2
    return line if len(line) <= MOST_CHARACTERS else f"{line[:half]} … {line[-half:]}"


def raised(lines: list[str]) -> list[str]:
    """The exception of every traceback with its last own frame; without a launcher's where there is another."""
    found: list[str] = []
    frames: list[re.Match[str]] | None = None
    for line in lines:
        if line.startswith("Traceback (most recent call last)"):
            frames = []
        elif frames is None:
            continue
        elif match := FRAME.match(line):
            frames.append(match)
        elif frames and EXCEPTION.match(line):
            found.append(line + place(frames))
            frames = None
    return [one for one in found if not any(name in one.split(":")[0] for name in LAUNCHERS)] or found


def place(frames: list[re.Match[str]]) -> str:
    own = [frame for frame in frames if is_own(frame["file"])]
    if not own:
        return ""
    file = Path(own[-1]["file"])
    name = file.relative_to(paths.REPOSITORY) if file.is_relative_to(paths.REPOSITORY) else file
    return f" ({name}:{own[-1]['line']}, in {own[-1]['function']})"


def is_own(file: str) -> bool:
    """Whether a source file belongs neither to an installed package nor to Python."""
    return not file.startswith(("<", sysconfig.get_path("stdlib"))) and "site-packages" not in file


def plain_lines(lines: list[str]) -> list[str]:
    """Lines at the margin (a warning's second line is indented) that are no warning and no progress bar."""
    at_margin = [line for line in lines if line and not line[0].isspace()]
    return [line for line in at_margin if not WARNING.search(line) and not PROGRESS_BAR.search(line)]
