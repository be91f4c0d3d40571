"""Draw the study's figures from the tables of results/analysis.

Reads    the tables that produce_tables.py makes.
Writes   results/analysis/figures/*.png and *.pdf

    python analysis/plotting.py --axis tokens --scale log
"""

from dataclasses import dataclass
from typing import Literal

from analysis.figures.panels import in_tokens
from analysis.figures.study_figures import build_grids, write_figures
from analysis.tables.frames import read_tables, table_files
from open_instruct.common import paths
from open_instruct.common.cli import run


@dataclass(frozen=True)
class Args:
    scale: Literal["index", "linear", "log"] = "index"
    """Checkpoints evenly spaced, by step or tokens, or by log(1 + step / smallest)."""
    axis: Literal["step", "tokens"] = "step"
    """Unit of the pre-training axis."""


def main(args: Args) -> None:
    folder = paths.results_dir()
    tables = read_tables(folder)
    grids = build_grids(in_tokens(tables) if args.axis == "tokens" else tables)
    write_figures(grids, folder / "figures", table_files(folder), scale=args.scale, axis=args.axis)


if __name__ == "__main__":
    run(main, Args)
