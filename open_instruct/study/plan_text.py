"""Print the plan of a study: what is compared, what it costs, and the commands."""

import shlex
import shutil
from collections import Counter
from collections.abc import Sequence

from open_instruct.common import paths
from open_instruct.common.progress_line import duration
from open_instruct.study.config import Study
from open_instruct.study.costs import CostModel, critical_path, measured_seconds
from open_instruct.study.job import Job, dependencies
from open_instruct.study.job_cache import JobCache

MOST_LISTED = 1_000
"""Jobs whose commands are listed; of a larger plan, those of the first of each stage."""


def print_plan(study: Study, jobs: Sequence[Job], cache: JobCache, *, keep_weights: str, verbose: bool) -> None:
    """The models and evaluations, the cost of the jobs that are left by stage, and with --verbose every command."""
    variants = list(study.variants())
    num_tuned = sum(variant.train_set is not None for variant in variants)
    evaluations = study.evaluations()
    num_runs = len({(one.family, one.run) for one in study.checkpoints()})
    runs = f"{num_runs} pre-training run{'s' if num_runs > 1 else ''}"
    print(f"study {study.name}: {runs}, {len(variants) - num_tuned} base models, {num_tuned} fine-tuned ones")
    print(f"each is evaluated on {len(evaluations)} combinations of evaluation set, format and number of exemplars")
    print(f"results: {paths.results_dir(study.name)}")
    print_costs(study, jobs, cache, keep_weights)
    if verbose:
        print_commands(jobs, cache)
    else:
        print("see every command: add --verbose")


def print_commands(jobs: Sequence[Job], cache: JobCache) -> None:
    before = dependencies(jobs)
    firsts = list({job.stage: job for job in reversed(jobs)}.values())[::-1]
    shown = jobs if len(jobs) <= MOST_LISTED else firsts
    for job in shown:
        after = sorted(one.key for one in before[job.id].values())
        print(f"{job.key}{'  (done)' if cache.is_done(job) else ''}")
        print(f"    python {shlex.join(job.command)}")
        print(f"    after:  {', '.join(after) or '-'}")
        print(f"    writes: {', '.join(paths.relative(path) for path in job.outputs)}")
    if len(shown) < len(jobs):
        print(f"… and {len(jobs) - len(shown)} more like these")


def print_costs(study: Study, jobs: Sequence[Job], cache: JobCache, keep_weights: str) -> None:
    """The cost of the jobs that are left, by stage; hours on one device each."""
    model = CostModel(study, keep_weights=keep_weights)
    measured = measured_seconds(jobs, cache)
    left = [job for job in jobs if not cache.is_done(job)]
    costs = {job.id: model.of(job, measured) for job in left}
    print(f"\n{'stage':<12}{'jobs':>7}{'left':>7}{'hours':>10}{'GPU-hours':>11}{'disk, GB':>10}  seconds a job")
    for stage, num_jobs in Counter(job.stage for job in jobs).items():
        found = [costs[job.id] for job in left if job.stage == stage]
        hours = sum(cost.seconds for cost in found) / 3600
        gpu_hours = sum(cost.seconds * cost.num_gpus for cost in found) / 3600
        disk, source = sum(cost.num_bytes for cost in found) / 1e9, "measured" if stage in measured else "estimated"
        seconds = f"{hours * 3600 / len(found):.0f}, {source}" if found else ""
        numbers = f"{num_jobs:>7}{len(found):>7}{hours:>10.2f}{gpu_hours:>11.2f}{disk:>10.2f}"
        print(f"{stage:<12}{numbers}  {seconds}".rstrip())
    total = sum(cost.seconds * cost.num_gpus for cost in costs.values()) / 3600
    disk, free = sum(cost.num_bytes for cost in costs.values()) / 1e9, shutil.disk_usage(paths.base_dir()).free / 1e9
    print(f"total: {len(left)} of {len(jobs)} jobs left, {total:.2f} GPU-hours")
    print(f"disk:  {disk:.2f} GB with --keep_weights {keep_weights}, {free:.2f} GB free")
    if disk > free:
        print("the study does not fit on the disk; free some of it, or set base_dir to a larger one")
    chain = critical_path(left, costs)
    seconds = sum(costs[job.id].seconds for job in chain)
    print(f"critical path: {duration(seconds)}: {' -> '.join(job.key for job in chain) or 'nothing is left'}")
