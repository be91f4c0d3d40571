"""Files of a user's in and around the place of an output, and the command lines' exit codes."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_instruct.common.cli import CURES
from open_instruct.common.errors import USER_ERROR, UserError

CONTENT = '{"title": "a thesis"}\n'


@dataclass(frozen=True)
class Output:
    path: Path
    is_folder: bool = False
    working: tuple[str, ...] = ()
    """More places that its command needs: names with {} for the output's, with a slash behind that of a folder."""

    def needed(self) -> list[Path]:
        """Files that stand where the command has to write, while there is no output."""
        name = self.path.name
        names = [name, f"{name}/thesis.txt", f".{name}.unfinished", f".{name}.unfinished/thesis.txt", f".{name}.lock"]
        names += [f"{name}/meta.json", f".{name}.replaced/thesis.txt"] if self.is_folder else [f"{name}.meta.json"]
        return [self.path.parent / one for one in (*names, *self.working_places())]

    def needed_again(self) -> list[Path]:
        """Files that stand in the way of making a finished output again."""
        name = self.path.name
        names = [f".{name}.unfinished", f".{name}.unfinished/thesis.txt", f".{name}.lock"]
        if self.is_folder:
            names += [f"{name}/thesis.txt", f"{name}/.hidden", f"{name}/sub/meta.json", f".{name}.replaced/thesis.txt"]
        return [self.path.parent / one for one in (*names, *self.working_places())]

    def unneeded(self) -> list[Path]:
        """Files that are nobody's concern."""
        name = self.path.name
        return [self.path.parent / one for one in (f"{name}.bak", f".{name}.1234.tmp", f"{name}.tmp", f".{name}")]

    def working_places(self) -> list[str]:
        return [one.format(self.path.name) + ("thesis.txt" if one.endswith("/") else "") for one in self.working]


@contextmanager
def planted(*files: Path, content: str = CONTENT) -> Iterator[None]:
    """A user's files, which the block must leave as they are; removed afterwards, with the folders made for them."""
    made = []
    for file in files:
        made += [parent for parent in reversed(file.parents) if not parent.exists()]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    yield
    for file in files:
        assert not file.is_symlink(), file
        assert file.read_text() == content, file
        file.unlink()
    for folder in reversed(made):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def exit_code_and_message(main: Callable[[Any], None], args: Any) -> tuple[int, str]:
    """What `cli.run` makes of a call."""
    try:
        main(args)
    except UserError as error:
        return USER_ERROR, str(error)
    except OSError as error:
        if error.errno not in CURES:
            raise
        return USER_ERROR, f"{error.filename}: {error.strerror}"
    return 0, ""


def hidden_files(folder: Path) -> set[str]:
    """What is left of runs: markers, unfinished folders, locks, temporary files."""
    return {path.name for path in folder.rglob(".*") if not path.name.startswith(".ipynb")}


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    Path(f"{path}.meta.json").unlink(missing_ok=True)
