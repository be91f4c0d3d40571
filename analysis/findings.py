"""Test the study's claims: for each an effect, an interval, an adjusted p-value, a verdict and one sentence.

Reads    the tables of results/{study} (made by produce_tables.py).
Writes   findings.json, findings.csv and, for a paper, findings.tex beside them.

    python analysis/findings.py --study scripts/studies/tiny.yaml
"""

from dataclasses import dataclass
from pathlib import Path

from analysis.inference.findings import find, write_findings
from analysis.inference.result_tables import load_results
from analysis.tables.columns import FILES
from analysis.tables.results_folder import existing_results
from open_instruct.common.cli import run
from open_instruct.common.sidecars import find_sidecar
from open_instruct.study.loading import load_study


@dataclass(frozen=True)
class Args:
    study: Path | None = None
    """Use the tables of this study, in results/{its name} (default: results/all, of all finished measurements)."""
    folder: Path | None = None
    """Use the tables of this folder, e.g. results/released."""


def main(args: Args) -> None:
    folder = existing_results(args.study, args.folder)
    primary = load_study(args.study).primary if args.study else None
    tables, files, is_replaced = load_results(folder)
    made = {} if is_replaced else find_sidecar(folder / FILES["differences"]) or {}
    if args.study is None and (study := made.get("arguments", {}).get("study")):
        print(
            f"note: the tables in {folder} are of {study}, and no claim is primary without --study: "
            "all share one false discovery rate"
        )
    write_findings(find(tables, primary), folder, files)


if __name__ == "__main__":
    run(main, Args)
