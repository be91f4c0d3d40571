"""Folder of the results that a script makes or reads: a study's, of all measurements, of the authors' tables."""

from collections.abc import Sequence
from pathlib import Path

from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.study.config import Study
from open_instruct.study.loading import load_study


def new_results(
    study_file: Path | None, released: Path | None, overrides: Sequence[str] = ()
) -> tuple[Study | None, Path]:
    """The study, and the folder for its tables, those of the authors' released ones, or of all finished measurements.

    Raises UserError where both are given.
    """
    if study_file and released:
        raise UserError("--study and --released exclude each other: released tables belong to no study file; drop one")
    study = load_study(study_file, overrides) if study_file else None
    return study, paths.results_dir("released" if released else study.name if study else "all")


def existing_results(study_file: Path | None, folder: Path | None, overrides: Sequence[str] = ()) -> Path:
    """Folder with the tables of a study, the given one, or that of all finished measurements; results go there too.

    Raises UserError where both are given, and for the tables that this repository releases.
    """
    if study_file and folder:
        raise UserError("--study and --folder exclude each other: a study's tables are in results/{its name}; drop one")
    if folder and folder.resolve().is_relative_to(paths.RELEASED_RESULTS):
        raise UserError(
            f"{folder} has the released tables and figures, and only scripts/release_results.sh writes there; "
            "copy its tables, without findings and figures, to a folder of your own and name that with --folder; "
            f"of tables that you put there: python analysis/report.py --released {folder}"
        )
    return folder or new_results(study_file, None, overrides)[1]
