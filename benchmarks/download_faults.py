"""Put downloads through random schedules of faults on a loopback store, and count how they end.

Reads   nothing: store and files are made here, as in tests/helpers/native_downloads.py.
Writes  nothing but this count. Every schedule ends in the very files of the store or in an error that names it, after
        which a second run brings the files; anything else stops this script.

    python benchmarks/download_faults.py --num_schedules 1000
"""

import os
import sys
import tempfile
import time
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from open_instruct import download_olmo_ckpts
from open_instruct.checkpoints.http_probe import RetryPolicy
from open_instruct.common.cli import run

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))


@dataclass(frozen=True)
class Args:
    num_schedules: int = 1000
    first_seed: int = 0


def main(args: Args) -> None:
    from native_downloads import run_schedule

    download_olmo_ckpts.RetryPolicy = lambda **options: RetryPolicy(backoff_seconds=0.0, **options)  # pyright: ignore
    download_olmo_ckpts.make_tokenizer = lambda family: None
    started, ends = time.monotonic(), Counter()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.first_seed, args.first_seed + args.num_schedules):
            base_dir = Path(folder) / str(seed)
            os.environ.update(base_dir=str(base_dir))
            with redirect_stdout(StringIO()):
                ends[run_schedule(base_dir, seed)] += 1
    print(
        f"{args.num_schedules} schedules in {time.monotonic() - started:.0f} s: {ends[True]} brought the files, "
        f"{ends[False]} ended in an error and brought them in a second run; none brought a wrong file"
    )


if __name__ == "__main__":
    run(main, Args)
