"""Test the study's claims: for each an effect, an interval, a corrected p-value, a verdict and one sentence.

Reads    the tables of results/analysis (made by produce_tables.py).
Writes   results/analysis/findings.json and findings.csv.

    python analysis/findings.py
"""

from dataclasses import dataclass

from analysis.inference.findings import find, write_findings
from analysis.tables.frames import read_tables, table_files
from open_instruct.common import paths
from open_instruct.common.cli import run


@dataclass(frozen=True)
class Args:
    """No arguments: every claim that the tables allow is tested."""


def main(args: Args) -> None:
    folder = paths.results_dir()
    write_findings(find(read_tables(folder)), folder, table_files(folder))


if __name__ == "__main__":
    run(main, Args)
