"""List and plan all of DataDecide from listings on the disk: 350 models, about 30,000 checkpoints.

Writes made-up listings in the real naming to FOLDER/output/listings/, and FOLDER/whole.yaml.

    python benchmarks/speed/whole_suite.py --folder /tmp/whole_suite
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from open_instruct.checkpoints.families import families_like, family_named
from open_instruct.checkpoints.family import Family
from open_instruct.checkpoints.hub_listing import ListedRevision, Listing, keep
from open_instruct.common.cli import run
from open_instruct.common.hashing import digest
from open_instruct.common.paths import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

from processes import measure, script

PATTERN = "datadecide-*"
STEPS_APART = 1250
STUDY = """\
name: whole
families: {datadecide-*: {steps: all, runs: all}}
evaluation: {heldout_text: {limit: 100}}
"""


@dataclass(frozen=True)
class Args:
    folder: Path
    """Becomes base_dir."""


def main(args: Args) -> None:
    os.environ["base_dir"] = str(args.folder)
    args.folder.mkdir(parents=True, exist_ok=True)
    names = families_like(PATTERN)
    listings = [listing(family_named(name)) for name in names]
    for one in listings:
        keep(one)
    study = args.folder / "whole.yaml"
    study.write_text(STUDY)
    print(f"{len(names)} models, {sum(len(one.revisions) - 1 for one in listings):,} checkpoints")
    download = script("open_instruct/download_olmo_ckpts.py", "--family", PATTERN, "--list", "--cached")
    measure("list", download)
    measure("plan", script("scripts/run_study.py", study, "--dry_run"))


def listing(family: Family) -> Listing:
    names = ["main", *revisions(family)]
    found = [ListedRevision(name, digest([family.name, name])[:40]) for name in names]
    return Listing(str(family.hub), "2026-11-28 12:00", tuple(found))


def revisions(family: Family) -> Iterator[str]:
    """Every run whole, as most of the repositories have them."""
    last = family.last_step or 0
    for name in family.runs:
        for step in (*range(0, last, STEPS_APART), last):
            yield f"step{step}-seed-{name}"


if __name__ == "__main__":
    run(main, Args)
