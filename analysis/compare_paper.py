"""Compare your own results with the authors' released tables: where they agree, where they differ, and what to ignore.

Two numbers agree if their difference is equivalent to zero within a margin; see docs/analysis.md.

Reads    the tables of results/{study} (made by produce_tables.py), and the released tables.
Writes   into the folder paper beside your own tables:
         numbers.csv  a row for each published number: your own, difference, verdict
         curves.csv   the same for each curve over checkpoints
         claims.csv   effects that both have, by claim: sign and size
         unsound.csv  published rows that carry no information about the model, with the evidence
         The first three also as LaTeX (booktabs): numbers.tex, curves.tex, claims.tex

    python analysis/compare_paper.py --study scripts/studies/paper.yaml --released ../authors/results/analysis
    python analysis/compare_paper.py --released ../authors/results/analysis --margin rouge_l=0.01 accuracy=0.03

With --coverage it writes nothing: it prints which of the published numbers these studies measure too, and why not the
others, before anything is run:

    python analysis/compare_paper.py --released ../authors/results/analysis --coverage scripts/studies/paper.yaml
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.inference.equivalence import MARGINS
from analysis.inference.paper_comparison import COMPARED, DIRECTIONS, LEVEL, VERDICTS, compare, of_released_family
from analysis.inference.paper_coverage import Measured, count_coverage, planned_keys
from analysis.inference.result_tables import build_tables, load_results
from analysis.tables.frames import groups, select, to_csv
from analysis.tables.gathering import gather_released
from analysis.tables.latex import to_latex
from analysis.tables.released import read_released
from analysis.tables.results_folder import existing_results
from open_instruct.common.artifacts import Artifact
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError, nearest
from open_instruct.study.loading import load_study

RESULT = ("difference", "ci_low", "ci_high", "verdict")
LATEX_COLUMNS = {
    "numbers": ("own_series", "checkpoint", "eval dataset", "metric", "own", "published", *RESULT),
    "curves": ("series", "eval dataset", "metric", "checkpoints", "agree", "differ", *RESULT),
    "claims": ("claim", "own_effect", "published_effect", "agreement"),
}


@dataclass(frozen=True)
class Args:
    released: Path
    """Folder of the authors' released tables."""
    study: Path | None = None
    """Use your tables of this study, in results/{its name} (default: results/all, of all finished measurements)."""
    folder: Path | None = None
    """Use your tables in this folder."""
    margin: tuple[str, ...] = ()
    """METRIC=VALUE: the largest difference that counts as none (default: the study file's margins, else 0.02)."""
    coverage: tuple[Path, ...] = ()
    """Study files: print which of the published numbers they measure too, and compare nothing."""


def main(args: Args) -> None:
    if args.coverage:
        print_coverage(args.released, args.coverage)
        return
    given, gathered = parse_margins(args.margin), gather_released(args.released)
    folder = existing_results(args.study, args.folder)
    margins = MARGINS | (load_study(args.study).margins if args.study else {}) | given
    output = folder / "paper"
    tables, files, _ = load_results(folder)
    own = of_released_family(tables, folder)
    released = build_tables(gathered)
    require_known(given, {*MARGINS, *released.scores["metric"]})
    results = compare(own, released, margins)
    inputs = {**files} | {f"released {name}": path for name, path in gathered.inputs.items()}
    with Artifact(output, arguments={"level": LEVEL, "margins": margins}, inputs=inputs).making_folder() as (made, _):
        for name, frame in results.items():
            to_csv(frame, made / f"{name}.csv")
            if name in LATEX_COLUMNS and len(frame):
                to_latex(frame.filter(LATEX_COLUMNS[name]), made / f"{name}.tex")
    report(results)
    print(f"wrote {', '.join(f'{name}.csv' for name in results)} to {output}")


def print_coverage(released: Path, study_files: Sequence[Path]) -> None:
    rows, _ = read_released(released)
    for path in study_files:
        study = load_study(path)
        tables, reasons = count_coverage(rows, Measured(planned_keys(study)))
        print(f"{study.name} (protocol {study.protocol}) measures of the published numbers:")
        for table, (covered, total) in tables.items():
            print(f"  {covered} of {total} of {table}")
            for (of_table, reason), count in reasons.most_common():
                if of_table == table:
                    print(f"    not measured ({count}): {reason}")


def parse_margins(options: Sequence[str]) -> dict[str, float]:
    """`metric=value` -> {metric: value}.  Raises UserError where a value is no positive number."""
    margins = {}
    for option in options:
        metric, _, text = option.partition("=")
        try:
            margins[metric] = float(text)
        except ValueError:
            margins[metric] = 0.0
        if not 0 < margins[metric] < math.inf:
            raise UserError(f"--margin {option}: expected METRIC=VALUE with a positive number, e.g. rouge_l=0.02")
    return margins


def require_known(given: Collection[str], known: set[str]) -> None:
    if unknown := [metric for metric in given if metric not in known]:
        raise UserError(f"--margin {unknown[0]}: no such metric ({nearest(unknown[0], known)})")


def report(results: Mapping[str, pd.DataFrame]) -> None:
    numbers, claims = results["numbers"], results["claims"]
    counts = Counter(numbers["verdict"])
    print(f"{len(numbers)} published numbers: " + ", ".join(f"{counts[v]} {v}" for v in VERDICTS if counts[v]))
    protocols = sorted({str(name) for name in numbers["own_protocol"].dropna()} - {"paper"})
    if protocols:
        print(
            f"your numbers use protocol {', '.join(protocols)}, the published ones paper: a difference may be due to it"
        )
    print("the published models are one run each: a difference may be due to that run")
    for row in results["curves"].to_dict("records"):
        if row["verdict"] == "differ":
            where = f"{row['series']} on {row['eval dataset']} ({row['metric']}, {row['shots']} shots)"
            print(
                f"differ: {where}: own minus published {row['difference']:+.3g} on average of "
                f"{sum(row[name] for name in COMPARED)} checkpoints, 95% interval {row['ci_low']:+.3g} to "
                f"{row['ci_high']:+.3g}, margin {row['margin']:g}"
            )
    signs = Counter(claims["agreement"])
    print(
        f"{len(claims)} effects that both have: "
        + (", ".join(f"{signs[name]} {name}" for name in DIRECTIONS if signs[name]) or "none")
    )
    for claim in select(claims, agreement="opposite sign").to_dict("records"):
        effects = f"own {claim['own_effect']:+.3g}, published {claim['published_effect']:+.3g}"
        print(f"opposite sign: {claim['claim']}: {effects}")
    for (kind, setting), rows in groups(results["unsound"], "kind", "setting"):
        print(f"unsound: {len(rows)} published rows of {setting} ({kind}), e.g. {rows['why'].iloc[0]}")


if __name__ == "__main__":
    run(main, Args)
