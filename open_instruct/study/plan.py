"""From a study to a graph of jobs: the command lines, inputs and outputs. Runs nothing."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from open_instruct.checkpoints.duplicates import refuse_duplicates_on_disk
from open_instruct.checkpoints.families import Checkpoint, family_named
from open_instruct.checkpoints.family import ALL, MAIN
from open_instruct.checkpoints.listing import missing_steps
from open_instruct.checkpoints.selection import course_name, courses
from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.data.availability import (
    eval_problems,
    formatted_eval_problems,
    formatted_train_problems,
    row_count_problems,
    train_problems,
)
from open_instruct.data.formatting import FormatOptions
from open_instruct.study import stages
from open_instruct.study.chosen_checkpoints import has_listing, listed
from open_instruct.study.config import Study
from open_instruct.study.job import Job
from open_instruct.study.own_results import require_own_results
from open_instruct.study.variants import identify

MOST_SHOWN = 5
"""Missing inputs that are named."""


def plan(study: Study, *, overwrite: bool = False) -> list[Job]:
    """All jobs of a study, each after those whose outputs it reads.  overwrite: other data are to be replaced.

    Raises UserError where an input neither exists nor is another job's output, where two jobs write the same output,
    where two checkpoints have the same weights, where a family's list lacks a step, where a model on the disk is
    another than the study says, where data cannot be had, and where the results of this name are another study's.
    """
    require_own_results(study)
    refuse_duplicates_on_disk(study.checkpoints())
    require_identities(study.checkpoints())
    require_runs(study.checkpoints())
    require_listed_steps(study.checkpoints())
    jobs = all_jobs(study)
    require_data(study, jobs, overwrite=overwrite)
    require_inputs(jobs)
    require_distinct_outputs(jobs)
    return jobs


def require_identities(checkpoints: Sequence[Checkpoint]) -> None:
    """Raises UserError where the stages would take a model on the disk for another one than the study does."""
    for checkpoint in checkpoints:
        folder = checkpoint.model_folder
        if not folder.is_dir():
            continue
        found = identify(folder)
        if found["model_id"] != checkpoint.model_id or found["family"] not in (None, checkpoint.family):
            of = f" of family {found['family']}" if found["model_id"] == checkpoint.model_id else ""
            raise UserError(
                f"{folder} is {found['model_id']}{of}, and not {checkpoint.model_id} as this study has it: see "
                "meta.json there, and the families' paths in families.yaml"
            )


def require_runs(checkpoints: Sequence[Checkpoint]) -> None:
    """Raises UserError for runs and stages that are neither on the disk nor in their family's store."""
    problems: dict[str, Checkpoint] = {}
    for one in checkpoints:
        family = one.declared
        problem = family.problem_of(one.step, one.run, one.stage) if family.has_store else None
        if problem and not one.folder.is_dir():
            problems.setdefault(f"{' '.join(filter(None, (one.family, one.stage, one.run)))}: {problem}", one)
    if problems:
        first = next(iter(problems.values()))
        raise UserError(
            f"checkpoints that cannot be downloaded: {'; '.join(problems)}. Put them into {first.folder} and so on, or "
            "declare a family for each run in families.yaml"
        )


def require_listed_steps(checkpoints: Sequence[Checkpoint]) -> None:
    """Raises UserError for steps that the list of their family, a file here, does not have. Asks no store."""
    missing_here = [one for one in checkpoints if not one.folder.is_dir()]
    problems: dict[str, str] = {}
    for name, by_course in stages.to_be_downloaded(missing_here).items():
        family = family_named(name)
        wanted = {
            course: [one.step for one in own]
            for course, own in by_course.items()
            if family.ckpt_csv or has_listing(family, course[1])
        }
        available = listed(family, tuple(dict.fromkeys(run or MAIN for _, run in wanted))) if wanted else ()
        by_listed = courses(family, available, runs=(ALL,), stages=(ALL,))
        for course, steps in wanted.items():
            if missing := missing_steps(by_listed.get(course, ()), steps):
                where = f", {course_name(family, course)}," if any(course) else ""
                problems[f"family {name}{where} has no checkpoint of step {'; '.join(missing)}"] = name
    if problems:
        raise UserError(
            f"{'. '.join(list(problems)[:MOST_SHOWN])}; choose among those of "
            f"`python open_instruct/download_olmo_ckpts.py --family {next(iter(problems.values()))} --list`"
        )


def all_jobs(study: Study) -> list[Job]:
    jobs = [*stages.pretraining(study), *stages.downloads(study), *stages.formatting(study)]
    for checkpoint in study.checkpoints():
        jobs += stages.conversion(checkpoint)
    variants = list(study.variants())
    for variant in variants:
        if variant.train_set is not None:
            jobs.append(stages.fine_tuning(study, variant, study.train_sets[variant.train_set]))
    by_shots = groupby(study.evaluations(), key=lambda one: one.num_shots)
    evaluations = [stages.NShotEvaluation(study, list(group)) for _, group in by_shots]
    for variant in variants:
        for evaluation in evaluations:
            jobs += evaluation.jobs(variant)
        jobs += stages.suite(study, variant)
    measurements = [path for job in jobs if job.stage in ("score", "suite") for path in job.outputs]
    return [*jobs, *stages.analysis(study, measurements)]


def require_data(study: Study, jobs: list[Job], *, overwrite: bool) -> None:
    """Raises UserError with every reason why a set cannot be formatted, or was formatted as another one."""
    options = FormatOptions(study.data_settings, study.datasets, study.source_options, overwrite, study.few_shot_sets())
    made = {path for job in jobs if job.stage == "format" for path in job.outputs}
    missing = {path for path in made if overwrite or not path.exists()}
    problems = []
    for name, recipe in study.train_sets.items():
        train_set = study.datasets.train_set(name)
        is_missing = paths.train_file(name, options.settings.suffix) in missing
        problems += train_problems(train_set, options) if is_missing else formatted_train_problems(train_set, options)
        num_rows = max(rows or 1 for rows in recipe.rows) + recipe.num_validation_rows
        problems += row_count_problems(train_set, num_rows, options)
    for name, config in study.evaluation.items():
        eval_set = study.datasets.eval_set(name)
        files = {paths.evaluation_file(name, one, options.settings.suffix) for one in config.formats}
        files |= {paths.exemplar_file(file) for file in files}
        if files & missing:
            problems += eval_problems(eval_set, config.formats, study.shots_of(name), options)
        else:
            problems += formatted_eval_problems(eval_set, study.shots_of(name), options)
    if problems:
        raise UserError("\n  ".join(["this data cannot be made:", *problems]))


def require_inputs(jobs: list[Job]) -> None:
    outputs = {path for job in jobs for path in job.outputs}
    missing = sorted({str(path) for job in jobs for path in job.inputs if path not in outputs and not path.exists()})
    if missing:
        more = f" and {len(missing) - MOST_SHOWN} more" if len(missing) > MOST_SHOWN else ""
        raise UserError(
            f"no job makes these, and they do not exist: {', '.join(missing[:MOST_SHOWN])}{more}; "
            "put them there first, or with --only add the stage that makes them"
        )


def require_distinct_outputs(jobs: list[Job]) -> None:
    counts = Counter(path for job in jobs for path in job.outputs)
    if repeated := [str(path) for path, count in counts.items() if count > 1]:
        raise UserError(f"two jobs of this study would write {', '.join(repeated[:3])}; list each item once")
