"""From a study to a graph of jobs: what is run, what it reads and writes, what it waits for.

One job is one command line of one stage script, which also runs alone. Nothing is run here.
"""

import dataclasses
import gc
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from open_instruct.checkpoints.duplicates import refuse_duplicates_on_disk
from open_instruct.checkpoints.families import Checkpoint, family_named, step_name
from open_instruct.common import paths
from open_instruct.common.artifacts import digest, sidecar_path
from open_instruct.common.errors import UserError
from open_instruct.study.config import Recipe, Study
from open_instruct.study.variants import Variant
from open_instruct.tasks import eval_set_named


@dataclass(frozen=True)
class Job:
    stage: str
    name: str
    """What it is done to: a model id, a family, or the study's name."""
    command: tuple[str, ...]
    """Script (from the repository) and arguments, for the Python interpreter; `-m` for a module."""
    outputs: tuple[Path, ...]
    inputs: tuple[Path, ...] = ()
    script: str = ""
    """The same as a script of scripts/slurm_scripts, which is told what to do by …"""
    variables: Mapping[str, str] = field(default_factory=dict)
    """… these variables …"""
    arguments: tuple[str, ...] = ()
    """… and these further arguments."""
    whole_machine: bool = False
    """Runs alone, with all cores."""
    can_overwrite: bool = True
    """Knows --overwrite; what does not is made anew whenever it runs."""

    @property
    def key(self) -> str:
        return f"{self.stage}.{self.name}"

    @cached_property
    def id(self) -> str:
        """The key, and a hash of what is run: the same in two studies only where the work is the same."""
        what = [self.command, [str(path) for path in self.outputs]]
        return f"{self.key}.{digest(what)[:8]}"


def plan(study: Study, study_file: Path) -> list[Job]:
    """All jobs of a study, each after those whose outputs it reads.

    Raises UserError where a job reads what neither another job makes nor lies on the disk, and where two checkpoints
    have the same weights.
    """
    refuse_duplicates_on_disk(study.checkpoints())
    with without_collection():
        return graph(study, study_file)


@contextmanager
def without_collection() -> Iterator[None]:
    """Of a hundred thousand new paths none is garbage; looking for it takes a third of a large plan's time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def graph(study: Study, study_file: Path) -> list[Job]:
    jobs = [*pretraining(study), *downloading(study), *formatting(study)]
    for checkpoint in study.checkpoints():
        jobs += conversion(Variant(checkpoint))
    variants = list(study.variants())
    for variant in variants:
        if variant.train_set is not None:
            jobs.append(fine_tuning(variant, study.train_sets[variant.train_set]))
    questions = Questions(study)
    for variant in variants:
        jobs += questions.put_to(variant)
    jobs += analysis(study, study_file, measured=[p for job in jobs for p in job.outputs if is_measurement(job)])
    require_sources(jobs)
    require_one_maker(jobs)
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


def require_one_maker(jobs: list[Job]) -> None:
    twice = [str(path) for path, count in Counter(path for job in jobs for path in job.outputs).items() if count > 1]
    if twice:
        raise UserError(f"two jobs of this study would write {', '.join(twice[:3])}; give each thing once")


def pretraining(study: Study) -> Iterator[Job]:
    if study.pretrain is None:
        return
    checkpoints = [checkpoint for checkpoint in study.checkpoints() if checkpoint.family == "tiny"]
    steps = ("--steps", *(str(checkpoint.step) for checkpoint in checkpoints))
    model = [part for key, value in dataclasses.asdict(study.pretrain).items() for part in (f"--{key}", str(value))]
    yield Job(
        "pretrain",
        study.name,
        ("open_instruct/pretrain_tiny.py", *steps, *model),
        outputs=(paths.tokenizer_dir("tiny"), *(paths.native_checkpoint("tiny", c.name) for c in checkpoints)),
        script="pretrain_tiny.sh",
        arguments=(*steps, *model),
        whole_machine=True,
    )


def downloading(study: Study) -> Iterator[Job]:
    """One job a family: it asks for all checkpoints, and for the room on the disk, before the first byte."""
    for name, steps in study.steps_by_family().items():
        family = family_named(name)
        is_native = family.checkpoint_format == "olmo"
        folder_of = paths.native_checkpoint if is_native else paths.converted_checkpoint
        wanted = [c for step in steps if not is_put_there(folder_of(name, (c := Checkpoint(name, step)).name))]
        if not (family.hub or family.urls) or not wanted:
            continue
        listed = ",".join(step_name(checkpoint.step) for checkpoint in wanted)
        yield Job(
            "download",
            name,
            ("open_instruct/download_olmo_ckpts.py", "--family", name, "--steps", listed, "--download_in_parallel"),
            outputs=(
                *((paths.tokenizer_dir(name),) if is_native else ()),
                *(folder_of(name, checkpoint.name) for checkpoint in wanted),
            ),
            script="download_ckpts.sh",
            variables={"family": name, "steps": listed},
        )


def is_put_there(folder: Path) -> bool:
    """Whether a user put the checkpoint there: what this project downloads has a sidecar."""
    return folder.is_dir() and any(folder.iterdir()) and not sidecar_path(folder).is_file()


def formatting(study: Study) -> Iterator[Job]:
    further = () if study.protocol == "corrected" else ("--protocol", study.protocol)
    further += () if study.source is None else ("--source", study.source)
    further += ("--seed", str(study.seed))
    yield Job(
        "format",
        study.name,
        (
            *("open_instruct/format_generalization.py", "--train_sets", *study.train_sets),
            *("--eval_sets", *study.evaluation, *further),
        ),
        outputs=(*(paths.train_file(name) for name in study.train_sets), *evaluation_files(study), *exemplars(study)),
        script="format_data.sh",
        variables={"train_sets": " ".join(study.train_sets), "eval_sets": " ".join(study.evaluation)},
        arguments=further,
    )


def evaluation_files(study: Study) -> tuple[Path, ...]:
    return tuple(paths.evaluation_file(name, f) for name, plan in study.evaluation.items() for f in plan.formats)


def exemplars(study: Study) -> tuple[Path, ...]:
    """The few-shot examples that this study needs."""
    sets = {one for shots in study.shots if shots for one in study.asked(shots)}
    return tuple(sorted(paths.exemplar_file(paths.evaluation_file(name, f)) for name, f in sets))


def conversion(base: Variant) -> Iterator[Job]:
    checkpoint = base.checkpoint
    if family_named(checkpoint.family).checkpoint_format != "olmo":
        return
    step = step_name(checkpoint.step)
    yield Job(
        "convert",
        base.model_id,
        ("open_instruct/olmo_hf/convert_olmo_to_tf.py", "--family", checkpoint.family, "--step", step),
        inputs=(paths.native_checkpoint(checkpoint.family, checkpoint.name), paths.tokenizer_dir(checkpoint.family)),
        outputs=(base.folder,),
        script="convert_ckpts.sh",
        variables={"family": checkpoint.family, "steps": step},
    )


def fine_tuning(variant: Variant, recipe: Recipe) -> Job:
    checkpoint, train_set = variant.checkpoint, variant.train_set or ""
    base, train_file = Variant(checkpoint).folder, paths.train_file(train_set)
    settings = {
        "learning_rate": str(variant.lr),
        "num_train_epochs": str(variant.epochs),
        "total_batch_size": str(recipe.batch_size),
        "mixed_precision": recipe.mixed_precision,
    }
    further = ["--max_train_rows", str(recipe.rows)] if recipe.rows else []
    further += ["--use_lora"] if recipe.adapter == "lora" else []
    further += ["--seed", str(variant.seed)]
    flags = [part for name, value in settings.items() for part in (f"--{name}", value)]
    return Job(
        "finetune",
        variant.model_id,
        (
            "open_instruct/finetune.py",
            "--model_name_or_path",
            str(base),
            "--train_file",
            str(train_file),
            *flags,
            *further,
        ),
        inputs=(base, train_file),
        outputs=(variant.folder,),
        script="fine_tune_olmo.sh",
        variables={
            "family": checkpoint.family,
            "ckpt": step_name(checkpoint.step),
            "model_name": str(base),
            "data_file_name": train_set,
            "lr": settings["learning_rate"],
            "epoch": settings["num_train_epochs"],
            "TOTAL_BATCH_SIZE": settings["total_batch_size"],
            "mixed_precision": recipe.mixed_precision,
        },
        arguments=tuple(further),
    )


class Questions:
    """What every model is asked: predictions, their scores, and the suite."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.rounds = [Round(study, shots) for shots in study.shots]

    def put_to(self, variant: Variant) -> Iterator[Job]:
        for one in self.rounds:
            if one.sets:
                yield from self.predictions(variant, one)
        suite = self.study.suite
        if suite and variant.train_set in (None, *suite.train_sets):
            yield self.sit_suite(variant)

    def predictions(self, variant: Variant, asked: "Round") -> Iterator[Job]:
        model_id, folder, shots = variant.model_id, variant.folder, asked.shots
        name = f"{model_id}_{shots}shots" if len(self.study.shots) > 1 else model_id
        predictions = tuple(paths.prediction_file(name, f, model_id, shots) for name, f in asked.sets)
        num_shots = ("--num_shots", str(shots))
        yield Job(
            "predict",
            name,
            ("eval/predict.py", "--model_name_or_path", str(folder), *asked.files, *num_shots, *asked.settings),
            inputs=(folder, *asked.inputs),
            outputs=predictions,
            script="generate_pred.sh",
            variables={"model_path": str(folder), "num_shots": str(shots)},
            arguments=(*asked.files, *asked.settings),
        )
        files = ("--input_files", *map(str, predictions))
        yield Job(
            "score",
            name,
            ("eval/eval_pred.py", *files),
            inputs=predictions,
            outputs=tuple(paths.metrics_file(path) for path in predictions),
            script="score_pred.sh",
            arguments=files,
        )

    def sit_suite(self, variant: Variant) -> Job:
        suite, folder = self.study.suite, variant.folder
        assert suite is not None
        limit = ("--limit", str(suite.limit)) if suite.limit else ()
        return Job(
            "suite",
            variant.model_id,
            ("-m", "olmo_eval.run_lm_eval", "--model-path", str(folder), "--task", *suite.tasks, *limit),
            inputs=(folder,),
            outputs=tuple(paths.suite_file(task, variant.model_id) for task in suite.tasks),
            script="evaluate_it_model.sh",
            variables={"model_path": str(folder), "tasks": " ".join(suite.tasks)},
            arguments=limit,
        )


class Round:
    """The evaluation sets that are asked with one number of examples before each item."""

    def __init__(self, study: Study, shots: int) -> None:
        self.shots = shots
        self.sets = study.asked(shots)
        files = [paths.evaluation_file(name, task_format) for name, task_format in self.sets]
        self.inputs = (*files, *(paths.exemplar_file(file) for file in files if shots))
        limits = [str(study.evaluation[name].limit or eval_set_named(name).num_rows) for name, _ in self.sets]
        self.files = ("--input_files", *map(str, files))
        self.settings = ("--max_new_tokens", str(study.max_new_tokens), "--limit", *limits)


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
        script="make_tables.sh",
        variables={"study": str(from_repository(study_file))},
        can_overwrite=False,
    )
    notebook = paths.REPOSITORY / "analysis" / "gen_paper_figs.ipynb"
    command = ("-m", "jupyter", "nbconvert", "--to", "notebook", "--execute", str(notebook))
    yield Job(
        "notebook",
        study.name,
        (*command, "--output-dir", str(results), "--output", notebook.name),
        inputs=(*tables, notebook),
        outputs=(results / notebook.name,),
        script="run_notebook.sh",
        can_overwrite=False,
    )
