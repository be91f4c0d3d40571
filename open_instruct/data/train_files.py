"""Write train files: the seeded sample of a train set, less what its evaluation sets have too."""

from collections.abc import Mapping
from typing import Any

from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.json_files import atomic_write, to_line
from open_instruct.data import train_sample
from open_instruct.data.decontamination import TextHashes
from open_instruct.data.format_tally import Tally
from open_instruct.data.formatting import (
    FormatOptions,
    compared_part,
    content_arguments,
    declaration_hash,
    for_settings,
    input_files,
    is_done,
    naming_files,
    require_other_file,
    require_reachable,
    trained_part,
)
from open_instruct.data.prompts import render
from open_instruct.data.sources import LocatedSplit, describe, locate, read_all
from open_instruct.tasks.declarations import EvalSet, TrainSet


def format_train_set(
    train_set: TrainSet, options: FormatOptions, evaluated: Mapping[str, TextHashes], *, hub_is_reachable: bool
) -> None:
    """Write the train file and its sidecar, unless it is done.

    evaluated  evaluation set -> hashes of its texts, of those that were read in this run
    """
    settings = options.settings
    located = [locate(split, options.place) for split in train_set.splits]
    artifact = train_artifact(train_set, located, options)
    if is_done(artifact, options):
        print(f"{artifact.path} is done; skipped")
        return
    require_reachable(located, hub_is_reachable=hub_is_reachable)
    overlap, tally = settings.overlap_rule, Tally(train_set)
    with artifact.making() as sidecar, naming_files(located):
        texts = TextHashes()
        for eval_set in options.datasets.in_domain_of(train_set):
            texts |= evaluated.get(eval_set.name) or read_texts(eval_set, options)
        rows, num_available = train_sample.sample_rows(
            train_set, settings.seed, options.place, any_count=settings.any_row_count
        )
        with atomic_write(artifact.path) as file:
            for row_id, row in rows:
                record = render(train_set, row, row_id=row_id, protocol=settings.protocol)
                if tally.add({"default": record}, evaluated=texts, drop=overlap == "drop"):
                    file.write(to_line(record))
            tally.check(drop_empty=settings.drop_empty, one_label=settings.allow_unlabelled, overlap=overlap)
        sidecar |= tally.facts() | {"sources": [describe(split) for split in located]}
        sidecar["sampled_from"] = num_available
        sidecar["dropped_also_in_evaluation"] = tally.num_overlapping if overlap == "drop" else 0
    dropped = " and dropped" if overlap == "drop" and tally.num_overlapping else ""
    print(f"{artifact.path}: {tally}{dropped}; sampled {len(rows):,} of {num_available:,}")


def train_artifact(train_set: TrainSet, located: list[LocatedSplit], options: FormatOptions) -> Artifact:
    """The train file. A changed evaluation set changes it: its rows are left out."""
    settings = options.settings
    compared = [for_settings(eval_set, settings) for eval_set in options.datasets.in_domain_of(train_set)]
    own = [locate(eval_set.split, options.place) for eval_set in compared if eval_set.split.own_files]
    arguments = content_arguments(trained_part(train_set), settings) | {
        "sample": train_set.sample,
        "overlap": settings.overlap_rule,
        "compared_with": {eval_set.name: declaration_hash(compared_part(eval_set)) for eval_set in compared},
    }
    identity = {
        "train_set": train_set.name,
        "chat": train_set.chat,
        "protocol": settings.protocol,
        "data_settings": settings.suffix,
    }
    path = paths.train_file(train_set.name, settings.suffix)
    require_other_file(path, train_set.name, [*located, *own])
    return Artifact(path, arguments, input_files([*located, *own]), identity)


def read_texts(eval_set: EvalSet, options: FormatOptions) -> TextHashes:
    """Hashes of the texts of an evaluation set."""
    settings = options.settings
    eval_set = for_settings(eval_set, settings)
    render_options: Any = {"protocol": settings.protocol, "allow_unlabelled": settings.allow_unlabelled}
    located = locate(eval_set.split, options.place)
    rows = enumerate(read_all(located))
    with naming_files([located]):
        return TextHashes(render(eval_set, row, row_id=f"{eval_set.name}-{i}", **render_options) for i, row in rows)
