"""What a run needs to go on where it was stopped, and when it is to stop: saved so that a kill at any moment loses
nothing that was saved before.

{output}.state/              beside the output; removed when the output is finished
  training_log.jsonl         the log so far, one line each `logging_steps`
  step-{n}/                  accelerate's state (weights, optimiser, schedule, random numbers) and progress.json
  best-{n}/                  the weights with the lowest validation loss
"""

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json, write_json

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
        self, output: Path, accelerator: Accelerator, *, arguments: Mapping[str, Any], inputs: Mapping
    ) -> None:
        self.folder = output.with_name(f"{output.name}.state")
        self.accelerator = accelerator
        self.made_by = json.loads(json.dumps({"arguments": dict(arguments), "inputs": dict(inputs)}))

    def find(self, where: str, *, overwrite: bool = False) -> Path | None:
        """The folder to resume from: `auto`, `no`, or a folder.

        Raises UserError where other arguments made it (unless `overwrite`, for `auto`), or the folder holds no state.
        """
        if where == "no":
            return None
        folder = self.folder if where == "auto" else Path(where)
        steps = sorted(folder.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
        found = folder if (folder / "progress.json").is_file() else steps[-1] if steps else None
        if found is None:
            if where == "auto":
                return None
            raise UserError(f"{folder} holds no state to resume from; expected a folder step-… with progress.json")
        saved = read_json(found / "progress.json")["made_by"]
        differing = [
            f"{name} was {saved[kind].get(name)!r}, now {self.made_by[kind].get(name)!r}"
            for kind in ("arguments", "inputs")
            for name in sorted({*saved[kind], *self.made_by[kind]})
            if saved[kind].get(name) != self.made_by[kind].get(name)
        ]
        if not differing:
            return found
        if where == "auto" and overwrite:
            return None
        raise UserError(
            f"{found} was saved by another run: {'; '.join(differing)}; go on with those, or add --overwrite "
            "to begin anew"
        )

    def restore(self, found: Path) -> Progress:
        """Load what `save` saved into all that the accelerator prepared."""
        self.accelerator.load_state(str(found))
        saved = read_json(found / "progress.json")
        if saved["num_processes"] != self.accelerator.num_processes:
            raise UserError(
                f"{found} was saved by {saved['num_processes']} processes, now there are "
                f"{self.accelerator.num_processes}; start as many, or begin anew with --resume_from_checkpoint no"
            )
        progress = Progress(**saved["progress"])
        progress.sessions += 1
        return progress

    def save(self, progress: Progress) -> Path:
        """Save; then remove older states. All processes call it."""
        final = self.folder / f"step-{progress.step}"
        unfinished = self.folder / f"unfinished-{progress.step}"
        self.on_main(lambda: shutil.rmtree(unfinished, ignore_errors=True))
        self.accelerator.save_state(str(unfinished))
        self.accelerator.wait_for_everyone()
        self.on_main(lambda: self.put_in_place(unfinished, final, progress))
        return final

    def put_in_place(self, unfinished: Path, final: Path, progress: Progress) -> None:
        about = {
            "made_by": self.made_by,
            "num_processes": self.accelerator.num_processes,
            "progress": asdict(progress),
        }
        write_json(unfinished / "progress.json", about)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(unfinished, final)
        kept = {final.name, f"best-{progress.best_step}"}
        for path in self.folder.iterdir():
            if path.is_dir() and path.name not in kept:
                shutil.rmtree(path)

    def on_main(self, action) -> None:
        """Do it on one process; the others wait."""
        if self.accelerator.is_main_process:
            action()
        self.accelerator.wait_for_everyone()

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class SavedAndStoppedError(Exception):
    """The run was asked to stop, and saved its state."""


class Stop:
    """Whether any process was asked to stop: by a signal, or by a file."""

    def __init__(self, accelerator: Accelerator, stop_file: Path | None) -> None:
        self.accelerator, self.stop_file, self.was_signalled = accelerator, stop_file, False

    @contextmanager
    def listening(self) -> Iterator["Stop"]:
        """Inside the block SIGTERM and SIGUSR1 ask; elsewhere they do what they always did."""
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

    def is_asked(self) -> bool:
        """The same answer in all processes."""
        asked = self.was_signalled or (self.stop_file is not None and self.stop_file.exists())
        if self.accelerator.num_processes == 1:
            return asked
        flag: Any = self.accelerator.reduce(torch.tensor(int(asked), device=self.accelerator.device), "sum")
        return flag.item() > 0

    def answer(self, saved: Path) -> None:
        """Into the file that asked, where the state was saved: launchers end with exit codes of their own."""
        if self.accelerator.is_main_process and self.stop_file is not None and self.stop_file.exists():
            self.stop_file.write_text(f"{saved}\n")
