"""Do prediction intervals hold for runs that no one has seen? Of the embedded study, with further pre-training runs.

The study's own runs give each effect a 95% prediction interval for one further run (columns next_low and next_high of
paired_differences.csv). Here the effects of further runs, one by one, are looked up in these intervals. All runs must
have been measured in $base_dir; this command line makes what is missing first:

    export base_dir=/tmp/unseen
    python scripts/run_study.py scripts/studies/tiny.yaml --set name=unseen 'pretrain.seeds=[42,43,44,45,46,47]'
    python benchmarks/agreement/unseen_runs.py --seeds 45 46 47
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.inference.result_tables import build_tables
from analysis.tables.columns import Comparison
from analysis.tables.frames import number
from analysis.tables.gathering import gather_measurements
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.paths import REPOSITORY
from open_instruct.study.loading import load_study

KEY = ("comparison", "series", "reference", "checkpoint", "eval dataset", "setting", "metric", "format")
FEWEST_INSIDE = 0.9


@dataclass(frozen=True)
class Args:
    seeds: tuple[int, ...]
    """Of the further runs."""
    study: Path = REPOSITORY / "scripts" / "studies" / "tiny.yaml"
    """Its pretrain.seeds are the runs of the intervals."""


def main(args: Args) -> None:
    intervals = {key: row for key, row in effects_of(args.study).items() if number(row["next_low"]) is not None}
    counts: Counter[tuple[str, bool]] = Counter()
    for seed in args.seeds:
        further = effects_of(args.study, f"pretrain.seeds=[{seed}]")
        inside = [
            (key[0], row["next_low"] <= further[key]["difference"] <= row["next_high"])
            for key, row in intervals.items()
            if key in further and number(further[key]["difference"]) is not None
        ]
        counts.update(inside)
        share = sum(is_inside for _, is_inside in inside) / len(inside)
        print(f"run of seed {seed}: {share:.1%} of {len(inside)} effects inside their prediction interval")
    for comparison in sorted({name for name, _ in counts}):
        inside, outside = counts[comparison, True], counts[comparison, False]
        print(f"  {inside / (inside + outside):6.1%} of {inside + outside:4d}  {comparison}")
    inside, total = sum(n for (_, is_inside), n in counts.items() if is_inside), counts.total()
    print(f"{inside / total:.1%} of {total} effects of {len(args.seeds)} further runs are inside")
    gains = counts[Comparison.CHANGE, True] / (counts[Comparison.CHANGE, True] + counts[Comparison.CHANGE, False])
    if min(inside / total, gains) < FEWEST_INSIDE:
        raise UserError(f"found {inside / total:.1%} of all effects and {gains:.1%} of gains inside; expected 90%")


def effects_of(study_file: Path, *overrides: str) -> dict[tuple[Any, ...], dict[Any, Any]]:
    """KEY -> row of paired_differences.csv, of the effects that were measured."""
    study = load_study(study_file, overrides)
    tables = build_tables(gather_measurements(study), study)
    if len(tables.missing):
        files = ", ".join(tables.missing["file"].head(3))
        raise UserError(f"{len(tables.missing)} measurements are missing, such as {files}; make them first (--help)")
    rows = tables.differences.to_dict("records")
    return {tuple(row[name] for name in KEY): row for row in rows if number(row["difference"]) is not None}


if __name__ == "__main__":
    run(main, Args)
