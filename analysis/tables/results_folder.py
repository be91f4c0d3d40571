"""Folder of the results that a script makes or reads: a study's, of all measurements, of the authors' tables."""

from collections.abc import Sequence
from pathlib import Path

from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.study.loading import load_study


def new_results(study: Path | None, released: Path | None, overrides: Sequence[str] = ()) -> Path:
    """Folder for the tables of a study, of the authors' released tables, or of all finished measurements.

    Raises UserError where both are given.
    """
    if study and released:
        raise UserError("--study and --released exclude each other: released tables belong to no study file; drop one")
    return paths.results_dir("released" if released else load_study(study, overrides).name if study else "all")


def existing_results(study: Path | None, folder: Path | None, overrides: Sequence[str] = ()) -> Path:
    """Folder with the tables of a study, the given one, or that of all finished measurements; results go there too.

    Raises UserError where both are given, and for the tables that this repository releases.
    """
    if study and folder:
        raise UserError("--study and --folder exclude each other: a study's tables are in results/{its name}; drop one")
    if folder and folder.resolve().is_relative_to(paths.RELEASED_RESULTS):
        raise UserError(
            f"{folder} has the released tables and figures, and only scripts/release_results.sh writes there; "
            "copy its tables to a folder of your own and name that with --folder"
        )
    return folder or new_results(study, None, overrides)
