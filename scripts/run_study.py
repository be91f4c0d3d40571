"""Run a study: every stage, in order, what is done skipped.

Reads   a study file (scripts/studies/*.yaml).
Writes  what the stages write, a log a job in output/logs/{study}/, and output/jobs/{study}/: what is done.

    python scripts/run_study.py scripts/studies/tiny.yaml --dry_run
    python scripts/run_study.py scripts/studies/tiny.yaml
"""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from olmo_eval.tasks import task_named
from open_instruct import paths
from open_instruct.cli import run
from open_instruct.executors import local
from open_instruct.plan import Job, plan
from open_instruct.stamps import Stamps
from open_instruct.study import load_study


@dataclass(frozen=True)
class Args:
    study: Annotated[Path, tyro.conf.Positional]
    """The study file."""
    dry_run: bool = False
    """Print the plan and what of it is done; run nothing."""
    num_parallel: int = os.cpu_count() or 1
    """Jobs at once; the cores are shared out among them."""
    overwrite: bool = False
    """Make again what other arguments made."""


def main(args: Args) -> None:
    study = load_study(args.study)
    for task in study.suite.tasks if study.suite else ():
        task_named(task)
    jobs = plan(study, args.study)
    if args.dry_run:
        print_plan(jobs, Stamps())
        return
    with local.sole_run(study.name) as lock:
        settings = local.Settings(args.num_parallel, args.overwrite, lock)
        outcomes = local.run_all(jobs, settings)
    local.print_summary(jobs, outcomes)
    if failed := [outcome.exit_code for outcome in outcomes.values() if outcome.state == "failed"]:
        sys.exit(failed[0])
    print(f"figures: {paths.results_dir() / 'figures'}")
    print(f"page:    {paths.results_dir() / 'report.html'}")


def print_plan(jobs: Sequence[Job], stamps: Stamps) -> None:
    maker = {path: job.key for job in jobs for path in job.outputs}
    for job in jobs:
        after = sorted({maker[path] for path in job.inputs if path in maker})
        print(f"{job.key}{'  (done)' if stamps.is_done(job) else ''}")
        print(f"    python {' '.join(job.command)}")
        print(f"    after:  {', '.join(after) or '-'}")
        print(f"    writes: {', '.join(paths.relative(path) for path in job.outputs)}")
    print(f"{len(jobs)} jobs: " + ", ".join(f"{n} {stage}" for stage, n in Counter(j.stage for j in jobs).items()))


if __name__ == "__main__":
    run(main, Args)
