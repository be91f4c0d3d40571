"""Execute the notebook of the study's figures on a folder of tables.

Reads    analysis/gen_paper_figs.ipynb, and the tables and findings of results/{study} (made by report.py).
Writes   results/{study}/gen_paper_figs.ipynb, with its outputs. The same tables give the same cells and figures.

    python analysis/run_notebook.py --study scripts/studies/tiny.yaml
"""

import os
from dataclasses import dataclass
from pathlib import Path

from analysis.tables.columns import FILES
from analysis.tables.frames import table_files
from analysis.tables.gathering import gather_released
from analysis.tables.replaced import is_replaced
from analysis.tables.results_folder import existing_results
from open_instruct.common.artifacts import Artifact
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import atomic_write
from open_instruct.common.paths import REPOSITORY

NOTEBOOK = REPOSITORY / "analysis" / "gen_paper_figs.ipynb"
SECONDS_PER_CELL = 600


@dataclass(frozen=True)
class Args:
    study: Path | None = None
    """Use the tables of this study, in results/{its name} (default: results/all, of all finished measurements)."""
    set: tuple[str, ...] = ()
    """Values in place of the study file's, as of run_study.py."""
    folder: Path | None = None
    """Use the tables of this folder, e.g. results/released."""


def main(args: Args) -> None:
    folder = existing_results(args.study, args.folder, args.set)
    output = folder / NOTEBOOK.name
    if is_replaced(folder):
        read = gather_released(folder).inputs
    else:
        required = (FILES["performance"], "findings.csv")
        read = table_files(folder) | {name: folder / name for name in required}
    if absent := [name for name, path in read.items() if not path.is_file()]:
        raise UserError(
            f"{folder}: no {', '.join(absent)}; make them with `python analysis/report.py`, or choose other results "
            "with --study or --folder"
        )
    inputs = {"notebook": NOTEBOOK} | dict(read)
    with Artifact(output, arguments={}, inputs=inputs).making(), atomic_write(output) as file:
        file.write(executed(folder))
    print(f"wrote {output}")


def executed(folder: Path) -> str:
    """The notebook with the outputs of its cells, as JSON."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=SECONDS_PER_CELL,
        record_timing=False,
        resources={"metadata": {"path": str(REPOSITORY)}},
    )
    client.execute(env=os.environ | {"results_folder": str(folder)})
    return nbformat.writes(notebook)


if __name__ == "__main__":
    run(main, Args)
