"""From a study to a graph of jobs: what is run, what it reads and writes, what it waits for.

One job is one command line of one stage script, which also runs alone. Nothing is run here.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from open_instruct import paths
from open_instruct.checkpoints import family_named
from open_instruct.records import UserError
from open_instruct.study import Recipe, Study, Variant
from open_instruct.tasks import eval_set_named


@dataclass(frozen=True)
class Job:
    stage: str
    name: str
    """What it is done to: a model id, or the study's name."""
    command: tuple[str, ...]
    """Script (from the repository) and arguments, for the Python interpreter; `-m` for a module."""
    outputs: tuple[Path, ...]
    inputs: tuple[Path, ...] = ()
    whole_machine: bool = False
    """Runs alone, with all cores."""
    can_overwrite: bool = True
    """Knows --overwrite; what does not is made anew whenever it runs."""

    @property
    def key(self) -> str:
        return f"{self.stage}.{self.name}"


def plan(study: Study, study_file: Path) -> list[Job]:
    """All jobs of a study, each after those whose outputs it reads.

    Raises UserError where a job reads what neither another job makes nor lies on the disk.
    """
    jobs = [*pretraining(study), *formatting(study)]
    for checkpoint in study.checkpoints():
        jobs += conversion(study, Variant(checkpoint))
    for variant in study.variants():
        if variant.train_set is not None:
            jobs.append(fine_tuning(study, variant, study.train_sets[variant.train_set]))
    for variant in study.variants():
        jobs += questioning(study, variant)
    jobs += analysis(study, study_file, measured=[p for job in jobs for p in job.outputs if is_measurement(job)])
    require_sources(jobs)
    return jobs


def is_measurement(job: Job) -> bool:
    return job.stage in ("score", "suite")


def require_sources(jobs: list[Job]) -> None:
    made = {path for job in jobs for path in job.outputs}
    missing = sorted({str(path) for job in jobs for path in job.inputs if path not in made and not path.exists()})
    if missing:
        raise UserError(
            f"nothing makes these, and they are not on the disk: {', '.join(missing)}; put them there first"
        )


def pretraining(study: Study) -> Iterator[Job]:
    if study.pretrain is None:
        return
    steps = ("--steps", *map(str, study.steps))
    model = [part for key, value in dataclasses.asdict(study.pretrain).items() for part in (f"--{key}", str(value))]
    checkpoints = (paths.native_checkpoint(study.family, c.name) for c in study.checkpoints())
    yield Job(
        "pretrain",
        study.name,
        ("open_instruct/pretrain_tiny.py", *steps, *model),
        outputs=(paths.tokenizer_dir(study.family), *checkpoints),
        whole_machine=True,
    )


def formatting(study: Study) -> Iterator[Job]:
    command = ("open_instruct/format_generalization.py", "--train_sets", *study.train_sets)
    command += () if study.protocol == "corrected" else ("--protocol", study.protocol)
    yield Job(
        "format",
        study.name,
        (*command, "--eval_sets", *study.evaluation, "--seed", str(study.seed)),
        outputs=(*(paths.train_file(name) for name in study.train_sets), *evaluation_files(study)),
    )


def evaluation_files(study: Study) -> tuple[Path, ...]:
    return tuple(paths.evaluation_file(name, f) for name, plan in study.evaluation.items() for f in plan.formats)


def conversion(study: Study, base: Variant) -> Iterator[Job]:
    if family_named(study.family).checkpoint_format != "olmo":
        return
    checkpoint = base.checkpoint
    step = -1 if checkpoint.step is None else checkpoint.step
    yield Job(
        "convert",
        base.model_id,
        ("open_instruct/olmo_hf/convert_olmo_to_tf.py", "--family", study.family, "--step", str(step)),
        inputs=(paths.native_checkpoint(study.family, checkpoint.name), paths.tokenizer_dir(study.family)),
        outputs=(base.folder,),
    )


def fine_tuning(study: Study, variant: Variant, recipe: Recipe) -> Job:
    base, train_file = Variant(variant.checkpoint).folder, paths.train_file(variant.train_set or "")
    command = ["open_instruct/finetune.py", "--model_name_or_path", str(base), "--train_file", str(train_file)]
    command += ["--learning_rate", str(recipe.lr), "--num_train_epochs", str(recipe.epochs)]
    command += ["--total_batch_size", str(recipe.batch_size), "--mixed_precision", recipe.mixed_precision]
    command += ["--max_train_rows", str(recipe.rows)] if recipe.rows else []
    command += ["--seed", str(study.seed)]
    return Job("finetune", variant.model_id, tuple(command), inputs=(base, train_file), outputs=(variant.folder,))


def questioning(study: Study, variant: Variant) -> Iterator[Job]:
    """What one model is asked: predictions, their scores, and the suite."""
    files = evaluation_files(study)
    predictions = tuple(
        paths.prediction_file(eval_set_named(name).name, task_format, variant.model_id, study.shots)
        for name, plan in study.evaluation.items()
        for task_format in plan.formats
    )
    limits = [
        str(plan.limit or eval_set_named(name).num_rows)
        for name, plan in study.evaluation.items()
        for _ in plan.formats
    ]
    yield Job(
        "predict",
        variant.model_id,
        (
            *("eval/predict.py", "--model_name_or_path", str(variant.folder), "--input_files", *map(str, files)),
            *("--num_shots", str(study.shots), "--max_new_tokens", str(study.max_new_tokens), "--limit", *limits),
        ),
        inputs=(variant.folder, *files),
        outputs=predictions,
    )
    yield Job(
        "score",
        variant.model_id,
        ("eval/eval_pred.py", "--input_files", *map(str, predictions)),
        inputs=predictions,
        outputs=tuple(path.with_suffix(".metrics.json") for path in predictions),
    )
    suite = study.suite
    if suite and variant.train_set in (None, *suite.train_sets):
        suite_limit = ("--limit", str(suite.limit)) if suite.limit else ()
        yield Job(
            "suite",
            variant.model_id,
            ("-m", "olmo_eval.run_lm_eval", "--model-path", str(variant.folder), "--task", *suite.tasks, *suite_limit),
            inputs=(variant.folder,),
            outputs=tuple(paths.suite_file(task, variant.model_id) for task in suite.tasks),
        )


def from_repository(path: Path) -> Path:
    """Jobs run in the repository; inside it a path is the same wherever it was cloned to."""
    path = path.resolve()
    return path.relative_to(paths.REPOSITORY) if path.is_relative_to(paths.REPOSITORY) else path


def analysis(study: Study, study_file: Path, *, measured: list[Path]) -> Iterator[Job]:
    results = paths.results_dir()
    tables = tuple(results / name for name in ("all_perf_table.csv", "official_eval_table.csv"))
    yield Job(
        "report",
        study.name,
        ("analysis/report.py", "--study", str(from_repository(study_file))),
        inputs=tuple(measured),
        outputs=(*tables, results / "report.html", results / "figures"),
        can_overwrite=False,
    )
    notebook = paths.REPOSITORY / "analysis" / "gen_paper_figs.ipynb"
    yield Job(
        "notebook",
        study.name,
        (
            *("-m", "jupyter", "nbconvert", "--to", "notebook", "--execute", str(notebook)),
            *("--output-dir", str(results), "--output", notebook.name),
        ),
        inputs=(*tables, notebook),
        outputs=(results / notebook.name,),
        can_overwrite=False,
    )
