"""From flags, config file and task file to the list of what is to be run."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import tyro
import yaml

from olmo_eval.tasks import DEFAULT_TASKS, task_named
from open_instruct.common.errors import UserError, nearest
from open_instruct.common.json_files import read_jsonl
from open_instruct.common.yaml_schema import parse_values

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Args = TypeVar("Args", bound="DataclassInstance")


@dataclass(frozen=True)
class TaskRun:
    """One task and what is asked of it: what a line of the task file may set."""

    name: str
    split: str
    num_shots: int
    fewshot_seed: int | None
    limit: int | None
    random_subsample_seed: int
    num_recorded_inputs: int
    use_chat_format: bool

    def deciding(self) -> dict[str, Any]:
        """The options that decide the metrics."""
        return {key: value for key, value in asdict(self).items() if key not in ("name", "num_recorded_inputs")}


def with_config_file(args: Args, config_file: Path | None) -> Args:
    """`args`, a dataclass, with the config file's values in place of those left at their defaults.

    Raises UserError for what is no mapping, and for unknown flags.  Mistyped values end as on the command line.
    """
    if config_file is None:
        return args
    if not config_file.is_file():
        raise UserError(f"{config_file}: no such config file")
    try:
        values = yaml.safe_load(config_file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{config_file}: neither YAML nor JSON: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{config_file}: expected a mapping of flags to values, found {type(values).__name__}")
    defaults = type(args)()
    names = [field.name for field in fields(defaults)]
    flags: list[str] = []
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in names:
            raise UserError(f"{config_file}: unknown flag {key} ({nearest(name, names)})")
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no-{name}")
        elif value is not None:
            flags += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    given = {name: getattr(args, name) for name in names if getattr(args, name) != getattr(defaults, name)}
    return replace(tyro.cli(type(args), args=flags), **given)


def planned_runs(names: Sequence[str], task_file: Path | None, *, defaults: Mapping[str, Any]) -> list[TaskRun]:
    """The named tasks and those of `task_file`, with their options; the default tasks where neither names any.

    `defaults` may hold more than a TaskRun's fields.  Raises UserError that names everything wrong with the options.
    """
    problems: list[str] = []
    options = {field.name: defaults[field.name] for field in fields(TaskRun) if field.name != "name"}
    lines = [{"name": name} for name in names]
    lines += list(read_jsonl(task_file, required=("name",))) if task_file else []
    runs = []
    for line in lines or [{"name": name} for name in DEFAULT_TASKS]:
        of_line: list[str] = []
        run = parse_values(TaskRun, options | line, key=str(line["name"]), errors=of_line)
        if run is not None:
            runs.append(run)
            of_line += check_run(run)
        problems += of_line
    counts = Counter(run.name for run in runs)
    twice = [name for name, count in counts.items() if count > 1]
    problems += [f"{name} is named twice; run it again, with another --metrics-file" for name in twice]
    if problems:
        raise UserError("; ".join(problems))
    return runs


def check_run(run: TaskRun) -> Iterator[str]:
    try:
        task_named(run.name)
    except UserError as error:
        yield str(error)
    for name, least in (("limit", 1), ("num_shots", 0), ("num_recorded_inputs", 0)):
        value = getattr(run, name)
        if value is not None and value < least:
            yield f"{run.name}: {name} is {value}; expected {least} or more"
