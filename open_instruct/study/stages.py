"""The jobs of each stage of a study, in the order of the pipeline."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from open_instruct.checkpoints.families import Checkpoint, family_named, step_name
from open_instruct.common import paths
from open_instruct.common.artifacts import sidecar_path
from open_instruct.study.config import Recipe, Study
from open_instruct.study.job import Job
from open_instruct.study.variants import Variant
from open_instruct.tasks import eval_set_named


def pretraining(study: Study) -> Iterator[Job]:
    if study.pretrain is None:
        return
    checkpoints = [checkpoint for checkpoint in study.checkpoints() if checkpoint.family == "tiny"]
    steps = ("--steps", *(str(checkpoint.step) for checkpoint in checkpoints))
    model = flags(dataclasses.asdict(study.pretrain))
    yield Job(
        "pretrain",
        study.name,
        ("open_instruct/pretrain_tiny.py", *steps, *model),
        outputs=(paths.tokenizer_dir("tiny"), *(checkpoint.folder for checkpoint in checkpoints)),
        script="pretrain_tiny.sh",
        arguments=(*steps, *model),
        whole_machine=True,
    )


def flags(values: dict) -> tuple[str, ...]:
    return tuple(part for name, value in values.items() for part in (f"--{name}", str(value)))


def downloads(study: Study) -> Iterator[Job]:
    """One job a family: before the first byte it checks that all checkpoints exist and fit on the disk."""
    for name, steps in study.steps_by_family().items():
        family = family_named(name)
        checkpoints = [c for step in steps if not is_from_user((c := Checkpoint(name, step)).folder)]
        if not (family.hub or family.urls) or not checkpoints:
            continue
        listed = ",".join(step_name(checkpoint.step) for checkpoint in checkpoints)
        tokenizer = (paths.tokenizer_dir(name),) if family.checkpoint_format == "olmo" else ()
        yield Job(
            "download",
            name,
            ("open_instruct/download_olmo_ckpts.py", "--family", name, "--steps", listed, "--download_in_parallel"),
            outputs=(*tokenizer, *(checkpoint.folder for checkpoint in checkpoints)),
            script="download_ckpts.sh",
            variables={"family": name, "steps": listed},
        )


def is_from_user(folder: Path) -> bool:
    """Whether a user put the checkpoint there: one that this project downloaded has a sidecar."""
    return folder.is_dir() and any(folder.iterdir()) and not sidecar_path(folder).is_file()


def formatting(study: Study) -> Iterator[Job]:
    sets = {"--train_sets": tuple(study.train_sets), "--eval_sets": tuple(study.evaluation)}
    named = tuple(part for option, names in sets.items() if names for part in (option, *names))
    if not named:
        return
    arguments = () if study.protocol == "corrected" else ("--protocol", study.protocol)
    arguments += () if study.source is None else ("--source", study.source)
    arguments += ("--seed", str(study.seed))
    suffix = study.data_settings.suffix
    train_files = [paths.train_file(name, suffix) for name in study.train_sets]
    evaluation_files = [
        paths.evaluation_file(name, task_format, suffix)
        for name, config in study.evaluation.items()
        for task_format in config.formats
    ]
    few_shot = {one for shots in study.shots if shots for one in study.evaluations(shots)}
    exemplar_files = sorted(paths.exemplar_file(paths.evaluation_file(*one, suffix)) for one in few_shot)
    yield Job(
        "format",
        study.name,
        ("open_instruct/format_generalization.py", *named, *arguments),
        outputs=(*train_files, *evaluation_files, *exemplar_files),
        script="format_data.sh",
        variables={"train_sets": " ".join(study.train_sets), "eval_sets": " ".join(study.evaluation)},
        arguments=arguments,
    )


def conversion(checkpoint: Checkpoint) -> Iterator[Job]:
    if family_named(checkpoint.family).checkpoint_format != "olmo":
        return
    step, model = step_name(checkpoint.step), Variant(checkpoint)
    yield Job(
        "convert",
        model.model_id,
        ("open_instruct/olmo_hf/convert_olmo_to_tf.py", "--family", checkpoint.family, "--step", step),
        inputs=(checkpoint.folder, paths.tokenizer_dir(checkpoint.family)),
        outputs=(model.folder,),
        script="convert_ckpts.sh",
        variables={"family": checkpoint.family, "steps": step},
    )


def fine_tuning(variant: Variant, recipe: Recipe, train_file: Path) -> Job:
    checkpoint, base = variant.checkpoint, Variant(variant.checkpoint).folder
    lr, epochs, batch_size = str(variant.lr), str(variant.epochs), str(recipe.batch_size)
    settings = {
        "model_name_or_path": base,
        "train_file": train_file,
        "learning_rate": lr,
        "num_train_epochs": epochs,
        "total_batch_size": batch_size,
        "mixed_precision": recipe.mixed_precision,
    }
    arguments = ("--max_train_rows", str(recipe.rows)) if recipe.rows else ()
    arguments += ("--use_lora",) if recipe.adapter == "lora" else ()
    arguments += ("--seed", str(variant.seed))
    return Job(
        "finetune",
        variant.model_id,
        ("open_instruct/finetune.py", *flags(settings), *arguments),
        inputs=(base, train_file),
        outputs=(variant.folder,),
        script="fine_tune_olmo.sh",
        variables={
            "family": checkpoint.family,
            "ckpt": step_name(checkpoint.step),
            "model_name": str(base),
            "data_file_name": train_file.stem,
            "lr": lr,
            "epoch": epochs,
            "TOTAL_BATCH_SIZE": batch_size,
            "mixed_precision": recipe.mixed_precision,
        },
        arguments=arguments,
    )


class NShotEvaluation:
    """What the evaluations of all models with one number of exemplars before each item have in common."""

    def __init__(self, study: Study, num_shots: int) -> None:
        self.num_shots = num_shots
        self.suffix = f"_{num_shots}shots" if len(study.shots) > 1 else ""
        self.sets = study.evaluations(num_shots)
        files = [paths.evaluation_file(*one, study.data_settings.suffix) for one in self.sets]
        limits = [str(study.evaluation[name].limit or eval_set_named(name).num_rows) for name, _ in self.sets]
        self.inputs = (*files, *(paths.exemplar_file(file) for file in files if num_shots))
        self.files = ("--input_files", *map(str, files))
        self.settings = ("--max_new_tokens", str(study.max_new_tokens), "--limit", *limits)

    def jobs(self, variant: Variant) -> Iterator[Job]:
        """Prediction and scoring of one model."""
        if not self.sets:
            return
        name, folder, num_shots = variant.model_id + self.suffix, variant.folder, str(self.num_shots)
        predictions = tuple(paths.prediction_file(*one, variant.model_id, self.num_shots) for one in self.sets)
        model = ("--model_name_or_path", str(folder))
        yield Job(
            "predict",
            name,
            ("eval/predict.py", *model, *self.files, "--num_shots", num_shots, *self.settings),
            inputs=(folder, *self.inputs),
            outputs=predictions,
            script="generate_pred.sh",
            variables={"model_path": str(folder), "num_shots": num_shots},
            arguments=(*self.files, *self.settings),
        )
        arguments = ("--input_files", *map(str, predictions))
        yield Job(
            "score",
            name,
            ("eval/eval_pred.py", *arguments),
            inputs=predictions,
            outputs=tuple(paths.metrics_file(path) for path in predictions),
            script="score_pred.sh",
            arguments=arguments,
        )


def suite(study: Study, variant: Variant) -> Iterator[Job]:
    """Ranked classification with one model."""
    if study.suite is None or not study.suite.includes(variant):
        return
    tasks, folder = study.suite.tasks, variant.folder
    limit = ("--limit", str(study.suite.limit)) if study.suite.limit else ()
    yield Job(
        "suite",
        variant.model_id,
        ("-m", "olmo_eval.run_lm_eval", "--model-path", str(folder), "--task", *tasks, *limit),
        inputs=(folder,),
        outputs=tuple(paths.suite_file(task, variant.model_id) for task in tasks),
        script="evaluate_it_model.sh",
        variables={"model_path": str(folder), "tasks": " ".join(tasks)},
        arguments=limit,
    )


def analysis(study: Study, study_file: Path, measurements: Sequence[Path]) -> Iterator[Job]:
    """Report and notebook, from the scores and suite results of all models."""
    results, study_argument = paths.results_dir(study.name), str(from_repository(study_file))
    tables = tuple(results / name for name in ("all_perf_table.csv", "official_eval_table.csv"))
    yield Job(
        "report",
        study.name,
        ("analysis/report.py", "--study", study_argument),
        inputs=tuple(measurements),
        outputs=(*tables, results / "report.html", results / "figures"),
        script="make_tables.sh",
        variables={"study": study_argument},
        can_overwrite=False,
    )
    notebook = paths.REPOSITORY / "analysis" / "gen_paper_figs.ipynb"
    yield Job(
        "notebook",
        study.name,
        ("analysis/run_notebook.py", "--study", study_argument),
        inputs=(*tables, notebook),
        outputs=(results / notebook.name,),
        script="run_notebook.sh",
        variables={"study": study_argument},
        can_overwrite=False,
    )


def from_repository(path: Path) -> Path:
    """Relative to the repository, in which jobs run, where `path` is inside: the same in every clone."""
    path = path.resolve()
    return path.relative_to(paths.REPOSITORY) if path.is_relative_to(paths.REPOSITORY) else path
