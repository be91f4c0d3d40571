"""The datasets at hand: the built-in declarations and the user's own, from YAML."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from open_instruct.common import paths
from open_instruct.common.errors import UserError, nearest
from open_instruct.common.yaml_files import compose
from open_instruct.common.yaml_schema import Validator, join
from open_instruct.data.dataset_file import ROLE, DatasetEntry, declare
from open_instruct.data.settings import SUFFIX_AT_END
from open_instruct.tasks import EVAL_SETS, TRAIN_SETS
from open_instruct.tasks.declarations import EvalSet, TrainSet

STUDY_KEYS = ("train_sets", "evaluation", "suite")
"""A file with one of these at its top is a study file: its datasets are in its section `datasets`."""


@dataclass(frozen=True)
class Datasets:
    """Train and evaluation sets by name."""

    train_sets: Mapping[str, TrainSet] = field(default_factory=dict)
    eval_sets: Mapping[str, EvalSet] = field(default_factory=dict)

    def train_set(self, name: str) -> TrainSet:
        """Raises UserError, with the nearest known names, where there is none."""
        if name not in self.train_sets:
            raise UserError(f"unknown train set {name} ({nearest(name, self.train_sets)})")
        return self.train_sets[name]

    def eval_set(self, name: str) -> EvalSet:
        """Raises UserError, with the nearest known names, where there is none."""
        if name not in self.eval_sets:
            raise UserError(f"unknown evaluation set {name} ({nearest(name, self.eval_sets)})")
        return self.eval_sets[name]

    def in_domain_of(self, train_set: TrainSet) -> list[EvalSet]:
        """The evaluation sets whose rows must not be trained on."""
        return [one for one in self.eval_sets.values() if one.role == f"in-domain of {train_set.name}"]


def read_datasets(path: Path | None = None) -> Datasets:
    """The built-in datasets, those of datasets.yaml in base_dir, and those of `path`, a datasets file or a study file.

    Raises UserError with every problem of a file, a line each.
    """
    own = paths.base_dir() / "datasets.yaml"
    files = [own] if own.is_file() else []
    if path is not None and path.resolve() != own:
        files.append(path)
    datasets = Datasets(dict(TRAIN_SETS), dict(EVAL_SETS))
    for file in files:
        datasets = with_file(datasets, file)
    return datasets


def with_file(known: Datasets, path: Path) -> Datasets:
    """`known` and the datasets that the file declares."""
    validator = Validator(path)
    nodes, key = validator.parse_mapping(compose(path), "") or {}, ""
    if "datasets" in nodes:
        nodes, key = validator.parse_mapping(nodes["datasets"], "datasets") or {}, "datasets"
    elif any(name in nodes for name in STUDY_KEYS):
        nodes = {}
    entries = {name: validator.parse_dataclass(DatasetEntry, node, join(key, name)) for name, node in nodes.items()}
    valid = {name: entry for name, entry in entries.items() if isinstance(entry, DatasetEntry)}
    train_sets, eval_sets = declare(valid, path.resolve().parent, key, validator)
    every = Datasets({**known.train_sets, **train_sets}, {**known.eval_sets, **eval_sets})
    for name in entries:
        if name in known.train_sets or name in known.eval_sets:
            validator.error(join(key, name), "there is a dataset of this name already; choose another name")
    for name, eval_set in eval_sets.items():
        check_role(join(key, name), eval_set, train_sets, every, validator)
    check_file_names(key, {*train_sets, *eval_sets}, every, validator)
    validator.raise_errors()
    return every


def check_role(
    key: str, eval_set: EvalSet, own_train_sets: Mapping[str, TrainSet], every: Datasets, validator: Validator
) -> None:
    match = ROLE.fullmatch(eval_set.role)
    if match is None or match[1] is None:
        return
    if match[1] not in every.train_sets:
        validator.error(f"{key}.role", f"unknown train set {match[1]} ({nearest(match[1], every.train_sets)})")
    elif eval_set.role.startswith("in-domain") and match[1] not in own_train_sets:
        # The train file would otherwise have other rows wherever this file is not given.
        validator.error(
            f"{key}.role",
            f"{match[1]} is not declared in this file, so that its rows are not compared with these; "
            f"expected out-of-domain of {match[1]}",
        )


def check_file_names(key: str, own: set[str], every: Datasets, validator: Validator) -> None:
    """Names of files must not be those of another set, format or setting."""
    names = {
        (name, task_format): paths.formatted_name(name, task_format)
        for name, eval_set in every.eval_sets.items()
        for task_format in eval_set.template.prompts
    }
    counts = Counter(names.values())
    for (name, _), formatted in names.items():
        if name in own and counts[formatted] > 1:
            validator.error(join(key, name), f"its file {formatted}.jsonl is that of another set; choose another name")
    for name in sorted(own):
        for formatted in {name, *(formatted for (of, _), formatted in names.items() if of == name)}:
            if found := SUFFIX_AT_END.search(formatted):
                message = f"a name that ends in {found[0]} is that of other data settings; choose another name"
                validator.error(join(key, name), message)
