"""From measurements to one page: tables, findings, figures and report.

Reads    what produce_tables.py reads.
Writes   what produce_tables.py, findings.py and plotting.py write, and report.html beside it: one file that needs no
         network. All of it is in results/{study}, or without --study in results/all. The same measurements give the
         same bytes.

    python analysis/report.py --study scripts/studies/tiny.yaml
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from analysis.figures.study_figures import build_grids, write_figures
from analysis.figures.token_axis import Axis, on_axis
from analysis.inference.findings import find, write_findings
from analysis.inference.result_tables import produce_tables
from analysis.page.report_page import build_page, shown_tables
from analysis.tables.columns import FILES
from analysis.tables.frames import read_tables, table_files
from analysis.tables.results_folder import new_results
from open_instruct.common.artifacts import Artifact
from open_instruct.common.cli import run
from open_instruct.common.json_files import atomic_write
from open_instruct.common.sidecars import sidecar_path


@dataclass(frozen=True)
class Args:
    study: Path | None = None
    """Take the models and evaluations of this study, and list what is missing (default: all finished ones)."""
    set: tuple[str, ...] = ()
    """Values in place of the study file's, as of run_study.py."""
    skip_scoring: bool = False
    """Do not score predictions that have no metrics yet, which are then missing, or that changed since."""
    released: Path | None = None
    """Folder of the authors' released tables, to be read in place of your own measurements."""
    scale: Literal["index", "linear", "log"] = "index"
    """Of the printed figures: checkpoints evenly spaced, by step or tokens, or by log(1 + step / smallest)."""
    axis: Axis = "auto"
    """Of the printed figures: steps or tokens (auto: steps, or tokens where a step is not as many in all models)."""


def main(args: Args) -> None:
    study, folder = new_results(args.study, args.released, args.set)
    produce_tables(study, args.released, folder, skip_scoring=args.skip_scoring)
    # Read back, since the files have twelve digits: run alone, findings.py and plotting.py see the same numbers.
    tables, inputs = read_tables(folder), table_files(folder)
    findings = find(tables, study.primary if study else None)
    write_findings(findings, folder, inputs)
    (on_page, page_axis), (printed, axis) = on_axis(tables), on_axis(tables, args.axis)
    grids = build_grids(on_page)
    of_print = grids if axis == page_axis else build_grids(printed)
    write_figures(of_print, folder / "figures", inputs, scale=args.scale, axis=axis)

    used = (*shown_tables(tables), "performance", "suites", "variation", "missing")
    names = [*(FILES[name] for name in used), "findings.json", "figures"]
    paper = folder / "paper" if sidecar_path(folder / "paper").is_file() else None
    page_inputs = {name: folder / name for name in names} | ({"paper": paper} if paper else {})
    arguments = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    with Artifact(folder / "report.html", arguments=arguments, inputs=page_inputs).making():
        page = build_page(tables, findings, grids, study, paper)
        with atomic_write(folder / "report.html") as file:
            file.write(page)
    print(f"wrote {folder / 'report.html'}")


if __name__ == "__main__":
    run(main, Args)
