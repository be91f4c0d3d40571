"""Two study files of one name would overwrite each other's results: the second is refused before anything runs."""

from pathlib import Path

from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.sidecars import find_sidecar
from open_instruct.study.config import Study
from open_instruct.study.loading import load_study

MADE_FIRST = "all_perf_table.csv"


def require_own_results(study: Study) -> None:
    """Raises UserError where the results of this name are of another study file, which is still there.

    A study file that was moved or changed keeps its results, and so do equal ones.
    """
    folder = paths.results_dir(study.name)
    sidecar = find_sidecar(folder / MADE_FIRST)
    recorded = sidecar["arguments"].get("study") if sidecar else None
    if recorded is None or Path(recorded).resolve() == study.file.resolve():
        return
    try:
        other = load_study(Path(recorded))
    except UserError:
        return
    if other.name == study.name and other != study:
        raise UserError(
            f"{folder} has the results of {recorded}, another study of the name {study.name}; give {study.file} a name "
            "of its own (`name:`), or move that folder away"
        )
