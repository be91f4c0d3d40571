"""A study on this machine and through a private Slurm cluster of two nodes: are the tables the same, byte for byte?

Reads   the study; needs Slurm and munge (docs/study.md)
Writes  {folder}/local/ and {folder}/slurm/, a base_dir each, which are kept: run again, it goes on.

Sums of floats depend on the number of threads, so that both give each stage the same: pre-training has the whole
machine, all else one thread.

    python benchmarks/slurm_vs_local.py --folder /tmp/slurm_vs_local         # about half an hour on two cores
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.paths import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tests" / "helpers"))
SCRIPT = REPOSITORY / "scripts" / "run_study.py"
ON_THE_WHOLE_MACHINE = "pretrain"
HOURS = 3600.0


@dataclass(frozen=True)
class Args:
    folder: Path
    study: Path = REPOSITORY / "scripts" / "studies" / "tiny.yaml"
    local_base_dir: Path | None = None
    """Where the study has been run on this machine (default: {folder}/local, and it is run there)."""
    max_hours: float = 2.0
    """For Slurm's part."""


def main(args: Args) -> None:
    from private_slurm import PrivateSlurm, require_programs
    from slurm_study import tables

    require_programs()
    local, on_slurm = args.local_base_dir or args.folder / "local", args.folder / "slurm"
    on_slurm.mkdir(parents=True, exist_ok=True)
    if args.local_base_dir is None:
        local.mkdir(exist_ok=True)
        run_study(args.study, os.environ | {"base_dir": str(local)})
    with PrivateSlurm() as cluster:
        started = time.monotonic()
        for threads, options in ((os.cpu_count(), ("--only", ON_THE_WHOLE_MACHINE)), (1, ())):
            environment = cluster.environment | {"base_dir": str(on_slurm), "OMP_NUM_THREADS": str(threads)}
            run_study(args.study, environment, "--executor", "slurm", "--retry_failed", *options)
            cluster.wait_until_empty(seconds=args.max_hours * HOURS)
        run_study(args.study, environment, "--executor", "slurm", "--status")
        print(f"through Slurm: {time.monotonic() - started:.0f} s", flush=True)
    compare(tables(local, "*.csv"), tables(on_slurm, "*.csv"))


def run_study(study: Path, environment: Mapping[str, str], *options: str) -> None:
    """Raises UserError where it fails."""
    done = subprocess.run([sys.executable, str(SCRIPT), str(study), *options], env=environment, check=False)
    if done.returncode:
        raise UserError(f"{study} ended with {done.returncode}; the reason stands above")


def compare(local: Mapping[str, bytes], on_slurm: Mapping[str, bytes]) -> None:
    """Raises UserError where a table is not the same in both, or there is none."""
    others = [name for name in local.keys() | on_slurm.keys() if local.get(name) != on_slurm.get(name)]
    if others or not local:
        raise UserError(f"these tables differ: {', '.join(sorted(others)) or 'none was made'}")
    print(f"the same, byte for byte: {', '.join(sorted(local))}")


if __name__ == "__main__":
    run(main, Args)
