"""Why a dataset cannot be formatted or evaluated, found without formatting it: no row but the first is read.

The plan of a study refuses what these name. No request is sent to the Hub, so that what only the Hub knows, such as a
wrong name of one of its files, is found when it is formatted.
"""

from collections.abc import Collection, Iterable
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path

from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.errors import UserError, nearest
from open_instruct.common.sidecars import find_sidecar
from open_instruct.data.evaluation_files import exemplar_artifact, exemplar_source, item_artifact
from open_instruct.data.formatting import FormatOptions, for_settings, require_same_declaration
from open_instruct.data.prompts import Task, render
from open_instruct.data.sampling import NUM_CANDIDATES, NUM_EXEMPLARS, exemplar_indices, num_trained
from open_instruct.data.sources import LocatedSplit, locate, read_all, read_some
from open_instruct.data.train_files import train_artifact
from open_instruct.tasks.declarations import EvalSet, Split, TrainSet


def train_problems(train_set: TrainSet, options: FormatOptions) -> list[str]:
    """One sentence for each reason why the train set cannot be formatted."""
    located = [split_problem(split, options) for split in train_set.splits]
    missing = [split for split in located if isinstance(split, str)]
    if missing:
        return [f"{train_set.name}: {problem}" for problem in missing]
    found = [split for split in located if isinstance(split, LocatedSplit)]
    problems = [problem for split in found if (problem := row_problem(train_set, split))]
    problems += shared_file_problems(train_set, found, options)
    try:
        artifacts = [train_artifact(train_set, found, options)]
    except UserError as error:  # an evaluation set that it is compared with is missing
        return [f"{train_set.name}: {problem}" for problem in (*problems, str(error))]
    return [f"{train_set.name}: {problem}" for problem in problems + clashes(artifacts, options)]


def shared_file_problems(train_set: TrainSet, located: Iterable[LocatedSplit], options: FormatOptions) -> list[str]:
    """Whether a file of it is evaluated too: its rows would be left out, and could be no exemplars."""
    splits = (eval_set.split for eval_set in options.datasets.in_domain_of(train_set))
    found = [split_problem(split, options) for split in splits]
    evaluated = {file for split in found if isinstance(split, LocatedSplit) for file in split.files}
    shared = {file for split in located for file in split.files} & evaluated
    if not shared or options.settings.overlap_rule == "keep":
        return []
    names = ", ".join(sorted(map(str, shared)))
    return [f"{names} is trained on and evaluated; expected other files for train and test"]


def eval_problems(
    declared: EvalSet, formats: Collection[str], num_shots: Collection[int], options: FormatOptions
) -> list[str]:
    """One sentence for each reason why the set cannot be formatted, or not evaluated in these formats and shots."""
    eval_set = for_settings(declared, options.settings)
    known = eval_set.template.prompts
    problems = [f"has no format {name} ({nearest(name, known)})" for name in formats if name not in known]
    if eval_set.split.unlabelled and not options.settings.allow_unlabelled:
        why = f"the split that the paper evaluated cannot be scored: {eval_set.split.unlabelled}"
        problems.append(f"{why}; use the corrected protocol")
    located = split_problem(eval_set.split, options)
    if isinstance(located, LocatedSplit):
        row = row_problem(eval_set, located)
        problems += [row] if row else []
        problems += shot_problems(eval_set, located, num_shots, options)
        problems += clashes(artifacts_of(eval_set, located, num_shots, options), options)
    else:
        problems.append(located)
    return [f"{eval_set.name}: {problem}" for problem in problems]


def formatted_train_problems(train_set: TrainSet, options: FormatOptions) -> list[str]:
    """Why a train file that exists is not that of this declaration.

    One whose raw rows are no longer at hand is taken as it is.
    """
    try:
        located = [locate(split, options.place) for split in train_set.splits]
        problems = clashes([train_artifact(train_set, located, options)], options)
    except UserError as error:
        compared = (eval_set.split for eval_set in options.datasets.in_domain_of(train_set))
        path = paths.train_file(train_set.name, options.settings.suffix)
        problems = [] if was_made_from(path, [*train_set.splits, *compared]) else [str(error)]
    return [f"{train_set.name}: {problem}" for problem in problems]


def formatted_eval_problems(declared: EvalSet, num_shots: Collection[int], options: FormatOptions) -> list[str]:
    """Why evaluation files that exist are not those of this declaration, or have too few exemplars."""
    eval_set, settings = for_settings(declared, options.settings), options.settings
    problems = made_exemplar_problems(eval_set, max(num_shots, default=0), options) or []
    try:
        located = locate(eval_set.split, options.place)
        problems += clashes(artifacts_of(eval_set, located, num_shots, options), options)
    except UserError as error:
        path = paths.evaluation_file(eval_set.name, suffix=settings.suffix)
        problems += [] if was_made_from(path, [eval_set.split]) else [str(error)]
    return [f"{eval_set.name}: {problem}" for problem in problems]


def artifacts_of(
    eval_set: EvalSet, located: LocatedSplit, num_shots: Collection[int], options: FormatOptions
) -> list[Artifact]:
    """The files of every format, with their exemplars where some are requested."""
    items = [item_artifact(eval_set, name, located, options.settings) for name in eval_set.template.prompts]
    source = exemplar_source(eval_set, located, options) if any(num_shots) else None
    return items + ([exemplar_artifact(item, eval_set, located, source) for item in items] if source else [])


def was_made_from(path: Path, splits: Iterable[Split]) -> bool:
    """Whether each raw file of the user's own that a formatted file was made from is one that is declared now."""
    patterns = [pattern for split in splits for pattern in split.own_files]
    before = (find_sidecar(path) or {}).get("input_paths", {}).values() if path.exists() else ()
    return not patterns or all(any(fnmatch(str(paths.absolute(name)), p) for p in patterns) for name in before)


def row_count_problems(train_set: TrainSet, num_rows: int, options: FormatOptions) -> list[str]:
    """Whether the train file has fewer rows than are trained on, those held back for validation included.

    Before it is formatted, its largest possible number of rows counts: some may be left out, as evaluated ones are.
    """
    path = paths.train_file(train_set.name, options.settings.suffix)
    meta = find_sidecar(path) if path.exists() else None
    if meta is not None:
        found = meta.get("rows", num_rows)
    else:
        found = sum(num_trained(train_set, size_of(split, train_set.sample, options)) for split in train_set.splits)
    if found >= num_rows:
        return []
    return [f"{train_set.name}: {num_rows} rows to train and validate on requested, {path} has at most {found}"]


def size_of(split: Split, sampled: int, options: FormatOptions) -> int:
    """Number of rows of a split; of a file on this disk at most as many as affect a sample, for it has to be read."""
    most = sampled + 2 * NUM_CANDIDATES
    located = split_problem(split, options)
    if isinstance(located, str) or located.store == "hub":
        return split.num_rows or most
    if split.num_rows is not None and not options.settings.any_row_count:
        return split.num_rows
    return sum(1 for _ in islice(read_all(located), most))


def clashes(artifacts: Iterable[Artifact], options: FormatOptions) -> list[str]:
    """Why files that exist are those of another declaration, of other files, or not this project's own."""
    for artifact in () if options.overwrite else artifacts:
        try:
            meta = find_sidecar(artifact.path) if artifact.path.exists() else None
            if meta is None:
                artifact.require_replaceable()
                continue
            require_same_declaration(artifact, meta)
            artifact.require_same_arguments(meta)
            before = meta.get("input_paths", {})
            if any(before.get(role) != paths.relative(path) for role, path in artifact.inputs.items()):
                artifact.require_same_files(meta, artifact.input_hashes())
        except UserError as error:
            return [str(error)]  # that of the other formats is the same
    return []


def shot_problems(
    eval_set: EvalSet, located: LocatedSplit, num_shots: Collection[int], options: FormatOptions
) -> list[str]:
    """Why few-shot evaluation is not possible."""
    few = max(num_shots, default=0)
    if not few:
        return []
    if eval_set.kind == "text":
        return ["is plain text, which takes no exemplars; expected shots: 0"]
    if few > NUM_EXEMPLARS:
        return [f"{few} exemplars requested, {NUM_EXEMPLARS} are made; expected at most these"]
    source = exemplar_source(eval_set, located, options)
    if source is not None and source.split != located.split and set(source.files) & set(located.files):
        return ["its exemplars are in a file that is evaluated too; expected other files for train and test"]
    if source is not None:
        return too_few_exemplars(eval_set, source, few, options)
    if eval_set.exemplars is None:
        return ["has no exemplars, as none are declared; expected shots: 0"]
    try:
        locate(eval_set.exemplars, options.place)
    except UserError as error:
        return [f"its exemplars are not at hand: {error}"]
    return [
        f"its exemplars are rows of {eval_set.exemplars.hub} {eval_set.exemplars.files} on the Hub, "
        "which --source auto does not download for a set whose other rows are here; expected --source hub or "
        "--few_shot_sets"
    ]


def too_few_exemplars(eval_set: EvalSet, source: LocatedSplit, few: int, options: FormatOptions) -> list[str]:
    """Whether the exemplars that were made, or a small file that they will be drawn from, are fewer than requested."""
    made = made_exemplar_problems(eval_set, few, options)
    if made is not None:
        return made
    if source.store != "own" and not options.settings.any_row_count:
        return []
    found, size = num_candidates(source, options)
    where = f"of the {size} rows of {source.name} {found} can be exemplars"
    return [] if found >= few else [f"{few} exemplars requested, {where}; expected shots: {found} or fewer"]


def made_exemplar_problems(eval_set: EvalSet, few: int, options: FormatOptions) -> list[str] | None:
    """Whether there are fewer exemplars than requested; None where they were not made yet."""
    path = paths.exemplar_file(paths.evaluation_file(eval_set.name, suffix=options.settings.suffix))
    meta = find_sidecar(path) if path.exists() else None
    if meta is None:
        return None
    found = meta.get("rows", few)
    if found >= few:
        return []
    return [f"{few} exemplars requested, {path} has {found}; expected shots: {found} or fewer"]


def num_candidates(source: LocatedSplit, options: FormatOptions) -> tuple[int, int]:
    """Rows of a split that can be exemplars, and its size, or as much of it as matters."""
    train_sets = options.datasets.train_sets.values()
    sampled = max((train_set.sample for train_set in train_sets if source.split in train_set.splits), default=0)
    size = size_of(source.split, sampled, options)
    if options.settings.rules.exemplars == "first_items":
        return size, size
    return len(exemplar_indices(source.split, size, options.settings.seed, train_sets)), size


def split_problem(split: Split, options: FormatOptions) -> LocatedSplit | str:
    """The split where it is, or why no source at hand has it."""
    try:
        return locate(split, options.place)
    except UserError as error:
        return str(error)


def row_problem(task: Task, located: LocatedSplit) -> str | None:
    """Why the first row of a user's own file, or of a mirror, does not fit the declaration; None where it does."""
    if located.store not in ("own", "local"):
        return None
    try:
        row = read_some(located, [0])[0]
        for task_format in task.template.prompts if task.template else ("default",):
            render(task, row, row_id=f"row 0 of {located.name}", task_format=task_format, allow_unlabelled=True)
    except UserError as error:
        return str(error)
    return None
