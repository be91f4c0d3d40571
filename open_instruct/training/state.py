"""Saved state of a run, from which it resumes, and requests to stop it.

{output}.state/              beside the output; removed when the output is complete
  training_log.jsonl         the log so far, one line each `logging_steps`
  step-{n}/                  accelerate's state (weights, optimiser, schedule, random numbers) and progress.json
  best-{n}/                  the weights with the lowest validation loss

A run that is killed at any moment, also while it saves, resumes from its last complete state.
"""

import json
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json, write_json
from open_instruct.common.markers import is_marker, marker_inside, write_marker
from open_instruct.common.ownership import follow_umask, mark_as_own, remove_own_folder

LOG_NAME = "training_log.jsonl"
SAVED = re.compile(r"(step|best|unfinished)-\d+")
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@dataclass
class Progress:
    """How far a run is."""

    step: int = 0
    num_tokens: int = 0
    seconds: float = 0.0
    """Training time, over all sessions."""
    sessions: int = 1
    best_step: int | None = None
    best_loss: float | None = None
    num_worse: int = 0
    """Validations since the best one."""
    log: list[dict[str, Any]] = field(default_factory=list)


class State:
    """The state folder of one output."""

    def __init__(
        self, output: Path, accelerator: Accelerator, *, arguments: Mapping[str, Any], inputs: Mapping[str, str]
    ) -> None:
        self.folder = state_folder(output)
        self.accelerator = accelerator
        self.made_by = json.loads(json.dumps({"arguments": dict(arguments), "inputs": dict(inputs)}))

    def find(self, where: str, *, overwrite: bool) -> Path | None:
        """The folder to resume from; None to start over.

        where: `auto`, `no`, or a folder.
        Raises UserError where another run saved it (unless `auto` and `overwrite`), or the folder has no state.
        """
        if where == "no":
            return None
        folder = self.folder if where == "auto" else Path(where)
        saved = [path.parent for path in folder.glob("step-*/progress.json") if SAVED.fullmatch(path.parent.name)]
        steps = sorted(saved, key=lambda path: int(path.name.removeprefix("step-")))
        found = folder if (folder / "progress.json").is_file() else steps[-1] if steps else None
        if found is None:
            if where == "auto":
                return None
            raise UserError(f"{folder} has no state to resume from; expected a folder step-… with progress.json")
        saved = read_json(found / "progress.json")["made_by"]
        differing = [
            f"{name} was {saved[kind].get(name)!r}, now {self.made_by[kind].get(name)!r}"
            if kind == "arguments"
            else f"the content of {name} is another one"  # what is saved is its hash
            for kind in ("arguments", "inputs")
            for name in sorted({*saved[kind], *self.made_by[kind]})
            if saved[kind].get(name) != self.made_by[kind].get(name)
        ]
        if not differing:
            return found
        if where == "auto" and overwrite:
            return None
        raise UserError(
            f"{found} was saved by another run: {'; '.join(differing)}; resume with those, or add --overwrite "
            "to start over"
        )

    def restore(self, found: Path) -> Progress:
        """Load a saved state into everything that the accelerator prepared."""
        self.accelerator.load_state(str(found))
        saved = read_json(found / "progress.json")
        if saved["num_processes"] != self.accelerator.num_processes:
            raise UserError(
                f"{found} was saved by {saved['num_processes']} processes, now there are "
                f"{self.accelerator.num_processes}; start as many, or start over with --resume_from_checkpoint no"
            )
        progress = Progress(**saved["progress"])
        progress.sessions += 1
        return progress

    def save(self, progress: Progress) -> Path:
        """Save, then remove older states. All processes call this."""
        final = self.folder / f"step-{progress.step}"
        unfinished = self.folder / f"unfinished-{progress.step}"
        self.on_main_process(lambda: shutil.rmtree(unfinished, ignore_errors=True))
        self.accelerator.save_state(str(unfinished))
        self.accelerator.wait_for_everyone()
        self.on_main_process(lambda: self.complete(unfinished, final, progress))
        return final

    def complete(self, unfinished: Path, final: Path, progress: Progress) -> None:
        num_processes = self.accelerator.num_processes
        saved = {"made_by": self.made_by, "num_processes": num_processes, "progress": asdict(progress)}
        write_json(unfinished / "progress.json", saved)
        seal(unfinished)
        if final.exists():
            remove_own_folder(final)
        os.replace(unfinished, final)
        self.remove_saved(kept={final.name, f"best-{progress.best_step}"})

    def remove_saved(self, *, kept: Collection[str] = ()) -> None:
        """Remove what was saved, and nothing else that the folder has."""
        for path in self.folder.iterdir():
            if path.is_dir() and SAVED.fullmatch(path.name) and path.name not in kept:
                # What is not sealed was being written when its run was killed.
                remove_own_folder(path) if is_marker(marker_inside(path)) else shutil.rmtree(path)

    def on_main_process(self, action: Callable[[], None]) -> None:
        """Call `action` on one process while the others wait."""
        if self.accelerator.is_main_process:
            action()
        self.accelerator.wait_for_everyone()

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        write_marker(marker_inside(self.folder), [LOG_NAME])

    def clear(self) -> None:
        self.remove_saved()
        remove_own_folder(self.folder)


def state_folder(output: Path) -> Path:
    return output.with_name(f"{output.name}.state")


def seal(folder: Path) -> None:
    """Complete a folder in the state: modes that follow the umask, and a list of its files, which may be removed."""
    follow_umask(folder)
    mark_as_own(folder)


class SavedAndStoppedError(Exception):
    """The run received a request to stop, and saved its state."""


class StopRequest:
    """A request to stop, by a signal or a file, to any of the processes."""

    def __init__(self, accelerator: Accelerator, stop_file: Path | None) -> None:
        self.accelerator, self.stop_file, self.was_signalled = accelerator, stop_file, False

    @contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Inside the block SIGTERM and SIGUSR1 are requests; afterwards their former handlers are back."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self.on_signal) for number in STOP_SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_signal(self, _number: int, _frame: object) -> None:
        self.was_signalled = True

    def is_received(self) -> bool:
        """The same value in all processes."""
        received = self.was_signalled or (self.stop_file is not None and self.stop_file.exists())
        if self.accelerator.num_processes == 1:
            return received
        flag: Any = self.accelerator.reduce(torch.tensor(int(received), device=self.accelerator.device), "sum")
        return flag.item() > 0

    def confirm(self, saved: Path) -> None:
        """Write the path of the saved state into the stop file: launchers replace this process's exit code."""
        file = self.stop_file
        if not self.accelerator.is_main_process or file is None or not file.is_file():
            return
        # Only in place of nothing, as `touch` leaves it, or of an earlier state of this run: all else is a user's.
        before = file.read_text(errors="replace")
        if not before or before.startswith(str(saved.parent)):
            file.write_text(f"{saved}\n")
