"""Draw the study's figures from its tables.

Reads    the tables of results/{study} (made by produce_tables.py).
Writes   figures/*.png and figures/*.pdf beside them.

    python analysis/plotting.py --study scripts/studies/tiny.yaml --axis tokens --scale log
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from analysis.figures.study_figures import build_grids, write_figures
from analysis.figures.token_axis import Axis, on_axis
from analysis.inference.result_tables import load_results
from analysis.tables.results_folder import existing_results
from open_instruct.common.cli import run


@dataclass(frozen=True)
class Args:
    study: Path | None = None
    """Use the tables of this study, in results/{its name} (default: results/all, of all finished measurements)."""
    folder: Path | None = None
    """Use the tables of this folder, e.g. results/released."""
    scale: Literal["index", "linear", "log"] = "index"
    """Checkpoints evenly spaced, by step or tokens, or by log(1 + step / smallest)."""
    axis: Axis = "auto"
    """Unit of the pre-training axis (auto: steps, or tokens where a step is not as many tokens in all models)."""


def main(args: Args) -> None:
    folder = existing_results(args.study, args.folder)
    tables, files, _ = load_results(folder)
    shown, axis = on_axis(tables, args.axis)
    write_figures(build_grids(shown), folder / "figures", files, scale=args.scale, axis=axis)


if __name__ == "__main__":
    run(main, Args)
