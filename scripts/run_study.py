"""Run a study, on this machine or on a Slurm cluster: every stage in order, finished jobs skipped.

Reads   a study file (scripts/studies/*.yaml), outputs of earlier runs and, on a cluster, the queue.
Writes  the outputs of the stages; output/jobs/ (the job cache, and the study's attempts in output/jobs/{study}/);
        logs in output/logs/{study}/ or, on a cluster, output/slurm/.

    python scripts/run_study.py scripts/studies/tiny.yaml --dry_run
    python scripts/run_study.py scripts/studies/tiny.yaml
    python scripts/run_study.py scripts/studies/paper.yaml --executor slurm
    python scripts/run_study.py scripts/studies/paper.yaml --executor slurm --status
"""

import gc
import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from open_instruct.common import paths
from open_instruct.common.cli import as_typed, run
from open_instruct.common.errors import SAVED_AND_STOPPED, UserError, nearest
from open_instruct.study import integrity, status, status_page
from open_instruct.study.config import Study
from open_instruct.study.costs import CostModel
from open_instruct.study.executors import local, slurm
from open_instruct.study.executors.submissions import all_submissions
from open_instruct.study.job import Job
from open_instruct.study.job_cache import JobCache
from open_instruct.study.loading import load_study
from open_instruct.study.plan import all_jobs, plan, require_inputs
from open_instruct.study.plan_text import print_plan
from open_instruct.study.stage_scripts import require_runnable


@dataclass(frozen=True)
class Args:
    study: Annotated[Path, tyro.conf.Positional]
    """The study file."""
    set: tuple[str, ...] = ()
    """Values in place of the study file's, e.g. --set train_sets.xsum.rows=600 seed=1."""
    executor: Literal["local", "slurm"] = "local"
    """Run the jobs on this machine, or submit them to Slurm and return."""
    dry_run: bool = False
    """Print the plan by stage, how many of its jobs are left, their estimated cost, and the smallest effects that the
    planned replicates and items can show; run nothing."""
    verbose: bool = False
    """With --dry_run: print the command of every job, and what it waits for and writes."""
    status: bool = False
    """Print the progress of the study, and write it as a page; run nothing."""
    watch: bool = False
    """Repeat --status until no job is queued or running."""
    only: tuple[str, ...] = ()
    """Run these stages only, on existing inputs."""
    retry_failed: bool = False
    """On Slurm: also submit failed jobs again (local runs always retry them)."""
    cancel: bool = False
    """Cancel this study's queued and running jobs."""
    verify: bool = False
    """Read all finished outputs again, name damaged ones and mark them to be made again."""
    keep_weights: Literal["full", "lora", "none"] = "full"
    """For --dry_run: what remains on the disk of a fine-tuned model after its evaluation."""
    num_parallel: int | None = None
    """Local jobs in parallel, each with its share of cores and GPUs (default: one per GPU, or per core without)."""
    overwrite: bool = False
    """Replace outputs that were made with other arguments (local only)."""
    interval_seconds: float = 30.0
    """Of --watch."""


def main(args: Args) -> None:
    # A large plan is a million objects, none of them garbage: looking for it takes a third of the time.
    gc.set_threshold(1_000_000)
    check_args(args)
    study = load_study(args.study, args.set)
    is_run = not (args.status or args.watch or args.verify or args.cancel)
    # What is done can be seen after a model or raw data were moved away, too.
    jobs = plan(study, overwrite=args.overwrite) if is_run else all_jobs(study)
    selected, cache = select(jobs, args.only), JobCache()
    if is_run and args.executor == "local":  # on Slurm their inputs may be made by jobs in the queue
        require_inputs(selected)
    if is_run and not args.overwrite:
        require_runnable(selected, cache)
    if args.dry_run:
        print_plan(study, selected, cache, keep_weights=args.keep_weights, verbose=args.verbose)
        print_planned_effects(study)
    elif args.status or args.watch:
        show_status(args, study, selected)
    elif args.verify:
        verify_all(args, selected)
    elif args.cancel:
        print(f"cancelled {slurm.cancel(selected, study.name)} jobs")
    elif args.executor == "slurm":
        submit(args, study, jobs, {job.id for job in selected})
    else:
        run_here(args, study, selected)


def print_planned_effects(study: Study) -> None:
    """The smallest gains that the planned replicates and items can show."""
    # Here, so that only this command pays for the imports.
    from analysis.inference.planned_effects import planned_effects

    for line in planned_effects(study, CostModel(study).items, paths.results_dir(study.name)):
        print(line)


def check_args(args: Args) -> None:
    """Raises UserError with all combinations of options that are not possible."""
    modes = ("dry_run", "status", "watch", "verify", "cancel")
    given = [f"--{name}" for name in modes if getattr(args, name)]
    problems = [f"{' and '.join(given)} exclude each other; give one"] if len(given) > 1 else []
    if args.cancel and args.executor == "local":
        problems.append("--cancel is for --executor slurm; end a local run with Ctrl-C; it continues when run again")
    if args.overwrite and args.executor == "slurm":
        problems.append("--overwrite is for the local executor; on Slurm, remove the outputs to be replaced")
    if problems:
        raise UserError("; ".join(problems))


def select(jobs: Sequence[Job], stages: Sequence[str]) -> list[Job]:
    """The jobs of the given stages, or all.  Raises UserError for a stage that is not in the study."""
    known = list(dict.fromkeys(job.stage for job in jobs))
    if unknown := [stage for stage in stages if stage not in known]:
        raise UserError(f"--only {', '.join(unknown)}: no such stage in this study ({nearest(unknown[0], known)})")
    return [job for job in jobs if not stages or job.stage in stages]


def run_here(args: Args, study: Study, jobs: Sequence[Job]) -> None:
    with local.sole_run(study.name) as lock:
        num_parallel = args.num_parallel or local.default_parallel()
        outcomes = local.run_all(jobs, lock, study_name=study.name, num_parallel=num_parallel, overwrite=args.overwrite)
    local.print_summary(jobs, outcomes)
    if failed := [outcome.exit_code for outcome in outcomes.values() if outcome.state == "failed"]:
        sys.exit(failed[0])
    if any(outcome.state != "done" for outcome in outcomes.values()):
        print("stopped; the same command goes on")
        sys.exit(SAVED_AND_STOPPED)
    if any(job.stage == "report" for job in jobs):
        results = paths.results_dir(study.name)
        print(f"figures: {results / 'figures'}")
        print(f"page:    {results / 'report.html'}")


def same_study(args: Args) -> str:
    """The command that names this study, its changed values and its executor."""
    changes = ["--set", *args.set] if args.set else []
    command = ["python", "scripts/run_study.py", str(args.study), *changes, "--executor", args.executor]
    return as_typed(shlex.join(command))


def current_status(args: Args, study: Study, jobs: Sequence[Job]) -> status.Status:
    retry = same_study(args)
    in_flight, logs = local.in_flight(jobs, study.name), {}
    if args.executor == "slurm":
        retry += " --retry_failed"
        submissions = all_submissions()
        tasks = slurm.in_flight(submissions).items()
        in_flight |= {job_id: status.InFlight(task.is_running, task.id, task.reason) for job_id, task in tasks}
        own = [one for one in submissions if one.study_name == study.name]
        logs = {job_id: one.log(index) for one in own for index, job_id in one.ids.items()}
    return status.collect(
        jobs,
        JobCache(),
        study_name=study.name,
        in_flight=in_flight,
        logs=logs,
        retry=retry,
        is_active=local.is_active(study.name),
    )


def submit(args: Args, study: Study, jobs: Sequence[Job], selected: set[str]) -> None:
    slurm.require_plain_paths()
    if args.retry_failed and (count := slurm.release_held()):
        print(f"released {count} jobs that Slurm held after it had failed to launch them")
    now = current_status(args, study, jobs)
    failed = set() if args.retry_failed else now.ids("failed")
    costs = CostModel(study)
    num_bytes = {job.id: costs.of(job).num_bytes for job in jobs if job.id in selected}
    result = slurm.Submitter(study, jobs, done=now.ids("done"), failed=failed, num_bytes=num_bytes).submit(selected)
    count = Counter(job.stage for job in jobs if job.id in result.submitted)
    print(f"submitted {len(result.submitted)} jobs: {', '.join(f'{n} {s}' for s, n in count.items()) or 'none'}")
    print(f"done before: {len(now.ids('done'))}; in the queue before: {sum(bool(one.where) for one in now.jobs)}")
    for job_id, reason in list(result.blocked.items())[: status_page.MOST_SHOWN]:
        print(f"not submitted: {job_id}: {reason}")
    if len(result.blocked) > status_page.MOST_SHOWN:
        print(f"… and {len(result.blocked) - status_page.MOST_SHOWN} more not submitted")
    print(f"see its progress: {same_study(args)} --status")


def show_status(args: Args, study: Study, jobs: Sequence[Job]) -> None:
    while True:
        now = current_status(args, study, jobs)
        if args.watch and sys.stdout.isatty():
            print("\033[2J\033[H", end="")
        print(status_page.as_text(now))
        print(f"\npage: {status_page.write_page(now, study.name)}", flush=True)
        if not args.watch or not now.is_active:
            return
        time.sleep(args.interval_seconds)


def verify_all(args: Args, jobs: Sequence[Job]) -> None:
    damaged = integrity.damaged_outputs(jobs)
    for path, problem in damaged.items():
        print(f"damaged: {paths.relative(path)}: {problem}")
    print(f"read {sum(path.exists() for job in jobs for path in job.outputs)} outputs, {len(damaged)} are damaged")
    if damaged:
        affected = integrity.invalidate(jobs, damaged)
        again = same_study(args) + (" --retry_failed" if args.executor == "slurm" else "")
        print(f"to be run again: {', '.join(job.key for job in affected)}; type:  {again}")
        sys.exit(1)


if __name__ == "__main__":
    run(main, Args)
