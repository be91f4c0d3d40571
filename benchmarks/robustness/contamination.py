"""Check for contamination on gigabytes of made-up text in which known items are planted: time, memory, found = planted.

Items are planted whole, in part, in other case, punctuation and Unicode form, at the start and the end of documents,
over the places where a long document is cut, and as near misses: 12 of 13 words, or over two documents.
Reads nothing, writes a folder that it removes at the end.

    python benchmarks/robustness/contamination.py --gigabytes 10 --folder /tmp/contamination
"""

import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_jsonl
from open_instruct.common.paths import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
sys.path.insert(0, str(REPOSITORY / "tests" / "helpers"))
from planted_text import PlantedText, differences, make_planted_text
from processes import script

FILE_BYTES = 250_000_000


@dataclass(frozen=True)
class Args:
    gigabytes: float = 10
    """Of text."""
    folder: Path = Path("/tmp/contamination")
    """Folder to make, which must not exist; it takes about as much as the text."""
    num_items: int = 1_000
    """Items of each of two files."""
    num_workers: int = 2
    seed: int = 0


def main(args: Args) -> None:
    if args.folder.exists():
        raise UserError(f"{args.folder} is there already; give a folder that can be made and removed")
    try:
        text_bytes = round(args.gigabytes * 1e9)
        num_files = max(8, text_bytes // FILE_BYTES)
        started = time.monotonic()
        made = make_planted_text(
            args.folder, num_items=args.num_items, text_bytes=text_bytes, num_files=num_files, seed=args.seed
        )
        seconds = time.monotonic() - started
        print(f"made {made.num_documents:,} documents, {made.text_bytes / 1e6:,.0f} MB, in {seconds:.0f} s", flush=True)
        check(args, made)
    finally:
        shutil.rmtree(args.folder, ignore_errors=True)


def check(args: Args, made: PlantedText) -> None:
    """Run the script, and compare what it found with what was planted."""
    os.sync()
    command = script(REPOSITORY / "open_instruct" / "check_contamination.py", "--input_files", *made.items)
    command += ["--text_dir", str(made.text_dir), "--num_workers", str(args.num_workers)]
    started = time.monotonic()
    process = subprocess.Popen(command, env=os.environ | {"base_dir": str(args.folder)})
    peak = PeakMemory(process.pid)
    if process.wait():
        raise UserError("the script failed")
    seconds, usage = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds, megabytes = usage.ru_utime + usage.ru_stime, made.text_bytes / 1e6
    print(f"{seconds:.1f} s, {megabytes / seconds:.0f} MB/s", end="; ")
    print(f"{cpu_seconds:.1f} s CPU, {megabytes / cpu_seconds:.0f} MB/s of a core", end="; ")
    print(f"peak memory of all processes {peak.stop() / 2**20:,.0f} MiB")
    for path, items in made.items.items():
        name = f"evaluation_{path.stem}" if path.parent.name == "evaluation" else path.stem
        found: list[dict[str, Any]] = list(
            read_jsonl(args.folder / "output" / "checks" / f"contamination_{name}.jsonl")
        )
        print(f"{path.name}: {dict(Counter(item.kind for item in items))}")
        if wrong := differences(items, found):
            raise UserError("\n  ".join([f"{len(wrong)} items differ from what was planted:", *wrong[:20]]))
    print(f"found = planted for all {2 * args.num_items:,} items: number of n-grams, file and row")


class PeakMemory:
    """Largest memory of a process and those that it started; memory that they share counts once."""

    def __init__(self, pid: int) -> None:
        self.process, self.peak, self.is_running = psutil.Process(pid), 0, True
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self) -> None:
        while self.is_running:
            try:
                every = [self.process, *self.process.children(recursive=True)]
                self.peak = max(self.peak, sum(one.memory_full_info().pss for one in every))
            except psutil.Error:  # one of them ended meanwhile
                pass
            time.sleep(0.1)

    def stop(self) -> int:
        self.is_running = False
        self.thread.join()
        return self.peak


if __name__ == "__main__":
    run(main, Args)
