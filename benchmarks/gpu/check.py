"""Run the parts of the GPU check, each in its own process with a time limit, and print a table of their figures.

Writes, for each part, {output_dir}/{part}.json (its figures, as they are measured) and {part}.log; and figures.txt.
"""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from figures import Figure, line_of

from open_instruct.common.cli import run
from open_instruct.common.errors import UserError

HERE = Path(__file__).parent
SECONDS = {"finetune": 120, "rank": 75, "generate": 90, "tests": 75, "modes": 90, "study": 120}
"""Time limit of each part, the most valuable first."""
GROUPS = [["finetune"], ["rank"], ["generate"], ["tests", "modes", "study"]]
"""Parts that run at once: the last ones measure no speed."""
TESTS = ("tests/training", "tests/prediction", "tests/engine")
"""Folders with tests marked `gpu`; others import packages that a GPU machine may lack."""
TINY_FACTOR = 10
PACKAGES = ("torch", "transformers", "accelerate", "peft", "numpy", "trl", "lm-eval")


@dataclass(frozen=True)
class Args:
    parts: tuple[str, ...] = tuple(SECONDS)
    """The parts to run."""
    tiny: bool = False
    """In miniature, to try the programs on a CPU."""
    output_dir: Path = Path("output/gpu_check")


def main(args: Args) -> None:
    unknown = set(args.parts) - set(SECONDS)
    if unknown:
        raise UserError(f"--parts {' '.join(sorted(unknown))}: no such part; there are {', '.join(SECONDS)}")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    table, unfinished = [machine()], []
    print(table[0], flush=True)
    for group in GROUPS:
        running = {name: start(name, args) for name in group if name in args.parts}
        started = time.monotonic()
        for name, process in running.items():
            limit = SECONDS[name] * (TINY_FACTOR if args.tiny else 1)
            outcome = outcome_of(process, limit - (time.monotonic() - started))
            lines = [f"\n{name}: {outcome}, {time.monotonic() - started:.0f} s", *figures_of(args, name)]
            if outcome != "done":
                unfinished.append(name)
                lines.append(log_of(args, name).read_text(errors="replace")[-2500:])
            print("\n".join(lines), flush=True)
            table += lines
    (args.output_dir / "figures.txt").write_text("\n".join(table) + "\n")
    if unfinished:
        raise UserError(f"not done: {', '.join(unfinished)}; see {args.output_dir}")


def machine() -> str:
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    versions = [f"{name} {installed(name)}" for name in PACKAGES]
    return f"{card}; {os.cpu_count()} cores; Python {platform.python_version()}; {', '.join(versions)}"


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def start(name: str, args: Args) -> subprocess.Popen:
    """Start a part, whose output goes to its log."""
    with log_of(args, name).open("w") as log:
        return subprocess.Popen(command(name, args), stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def command(name: str, args: Args) -> list[str]:
    if name == "tests":
        return [sys.executable, "-m", "pytest", "-m", "gpu", "--durations=5", "-rf", *TESTS]
    tiny = ["--tiny"] if args.tiny else []
    return [sys.executable, str(HERE / f"{name}.py"), "--output_file", str(json_of(args, name)), *tiny]


def outcome_of(process: subprocess.Popen, seconds: float) -> str:
    """Wait for a part, and end it and its children after so many seconds."""
    try:
        code = process.wait(max(seconds, 0))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return "stopped at its time limit"
    return "done" if code == 0 else f"exit code {code}"


def figures_of(args: Args, name: str) -> list[str]:
    """The figures' lines; of the tests, their summary."""
    if name == "tests":
        return log_of(args, name).read_text().splitlines()[-1:]
    file = json_of(args, name)
    return [line_of(Figure(**fields)) for fields in json.loads(file.read_text())] if file.is_file() else []


def json_of(args: Args, name: str) -> Path:
    return args.output_dir / f"{name}.json"


def log_of(args: Args, name: str) -> Path:
    return args.output_dir / f"{name}.log"


if __name__ == "__main__":
    run(main, Args)
