"""Do two runs of one study, with other numbers of threads or on other processors, come to the same verdicts?

mkdir -p /tmp/one /tmp/two
base_dir=/tmp/one python scripts/run_study.py scripts/studies/tiny.yaml
base_dir=/tmp/two python scripts/run_study.py scripts/studies/tiny.yaml --num_parallel 1
python benchmarks/agreement/same_verdicts.py --folders /tmp/one/results/tiny /tmp/two/results/tiny
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json

KEY = ("question", "claim", "series", "eval_set", "metric", "checkpoint")


@dataclass(frozen=True)
class Args:
    folders: tuple[Path, Path]
    """Results of the two runs, with findings.json."""


def main(args: Args) -> None:
    one, other = ({tuple(f[name] for name in KEY): f for f in findings_of(folder)} for folder in args.folders)
    if one.keys() != other.keys():
        raise UserError(f"{len(one.keys() ^ other.keys())} claims are in one of the two only; expected the same study")
    differing = [key for key in one if one[key]["verdict"] != other[key]["verdict"]]
    moved = [
        abs(one[key]["effect"] - other[key]["effect"]) / half_width(one[key])
        for key in one
        if one[key]["effect"] is not None and other[key]["effect"] is not None and half_width(one[key])
    ]
    print(f"{len(one)} claims: {len(differing)} verdicts differ")
    print(
        f"effects differ by {np.median(moved):.2g} half-widths of the interval in the median, {max(moved):.2g} at most"
    )
    for key in differing:
        print(f"  {one[key]['sentence']}\n  {other[key]['sentence']}")
    if differing:
        raise UserError(f"{len(differing)} verdicts differ")


def findings_of(folder: Path) -> list[dict[str, Any]]:
    return read_json(folder / "findings.json")["findings"]


def half_width(finding: dict[str, Any]) -> float:
    ends = finding["ci_low"], finding["ci_high"]
    return 0.0 if None in ends else (ends[1] - ends[0]) / 2


if __name__ == "__main__":
    run(main, Args)
