"""The raw files on this disk that a study's datasets are made from: where one has changed, they are formatted again."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.data.formatting import for_settings
from open_instruct.data.sources import locate
from open_instruct.study.config import Study
from open_instruct.tasks.declarations import Split


def raw_files(study: Study) -> tuple[Path, ...]:
    exemplars = [study.datasets.eval_set(name).exemplars for name in study.evaluation]
    splits = [split for split in exemplars if split]
    splits += [split for name in study.train_sets for split in splits_of_train_set(study, name)]
    splits += [split for name in study.evaluation for split in splits_of_eval_set(study, name)]
    found: set[Path] = set()
    for split in splits:
        with suppress(UserError):  # the plan names what is missing
            found.update(locate(split, study.source_options).files)
    return tuple(sorted(found))


def train_sets_to_format(study: Study) -> tuple[str, ...]:
    """All but those that are formatted and whose raw files are gone."""
    suffix = study.data_settings.suffix
    return tuple(
        name
        for name in study.train_sets
        if is_at_hand(splits_of_train_set(study, name), study) or not paths.train_file(name, suffix).exists()
    )


def eval_sets_to_format(study: Study) -> tuple[str, ...]:
    """All but those that are formatted and whose raw files are gone."""
    suffix = study.data_settings.suffix
    return tuple(
        name
        for name, config in study.evaluation.items()
        if is_at_hand(splits_of_eval_set(study, name), study)
        or not all(paths.evaluation_file(name, one, suffix).exists() for one in config.formats)
    )


def splits_of_train_set(study: Study, name: str) -> list[Split]:
    """Its own, and those of the evaluation sets that it is compared with."""
    train_set = study.datasets.train_set(name)
    compared = study.datasets.in_domain_of(train_set)
    return [*train_set.splits, *(for_settings(one, study.data_settings).split for one in compared)]


def splits_of_eval_set(study: Study, name: str) -> list[Split]:
    return [for_settings(study.datasets.eval_set(name), study.data_settings).split]


def is_at_hand(splits: Iterable[Split], study: Study) -> bool:
    try:
        for split in splits:
            locate(split, study.source_options)
    except UserError:
        return False
    return True
