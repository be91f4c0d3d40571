"""Compare your own results with the authors' released tables: where they agree, where they differ, and what to ignore.

Reads    the tables of results/{study} (made by produce_tables.py), and the released tables.
Writes   into the folder paper beside your own tables:
         numbers.csv  a row for each published number: your own, difference, verdict
         curves.csv   the same for each curve over checkpoints
         claims.csv   the claims that can be tested on both, and both verdicts
         unsound.csv  degenerate published rows, which carry no information, with the evidence
         The first three also as LaTeX (booktabs): numbers.tex, curves.tex, claims.tex

    python analysis/compare_paper.py --study scripts/studies/paper.yaml --released ../released_tables
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.inference.findings import LEVEL
from analysis.inference.paper_comparison import VERDICTS, compare, of_released_family
from analysis.inference.result_tables import build_tables
from analysis.tables.frames import groups, read_tables, select, table_files, to_csv
from analysis.tables.gathering import gather_released
from analysis.tables.latex import to_latex
from analysis.tables.results_folder import existing_results
from open_instruct.common.artifacts import Artifact
from open_instruct.common.cli import run

RESULT = ("difference", "ci_low", "ci_high", "verdict")
LATEX_COLUMNS = {
    "numbers": ("own_series", "checkpoint", "eval dataset", "metric", "own", "published", *RESULT),
    "curves": ("series", "eval dataset", "metric", "checkpoints", "agree", "differ", "mean_difference", *RESULT[1:3]),
    "claims": ("claim", "own", "published", "agreement"),
}


@dataclass(frozen=True)
class Args:
    released: Path
    """Folder of the authors' released tables."""
    study: Path | None = None
    """Use your tables of this study, in results/{its name} (default: results/all, of all finished measurements)."""
    folder: Path | None = None
    """Use your tables in this folder."""


def main(args: Args) -> None:
    folder = existing_results(args.study, args.folder)
    output = folder / "paper"
    own, gathered = of_released_family(read_tables(folder), folder), gather_released(args.released)
    results = compare(own, build_tables(gathered))
    inputs = table_files(folder) | {f"released {name}": path for name, path in gathered.inputs.items()}
    with Artifact(output, arguments={"level": LEVEL}, inputs=inputs).making_folder() as (made, _):
        for name, frame in results.items():
            to_csv(frame, made / f"{name}.csv")
            if name in LATEX_COLUMNS and len(frame):
                to_latex(frame.filter(LATEX_COLUMNS[name]), made / f"{name}.tex")
    report(results)
    print(f"wrote {', '.join(f'{name}.csv' for name in results)} to {output}")


def report(results: Mapping[str, pd.DataFrame]) -> None:
    numbers, claims = results["numbers"], results["claims"]
    counts = Counter(numbers["verdict"])
    print(f"{len(numbers)} published numbers: " + ", ".join(f"{counts[v]} {v}" for v in VERDICTS if counts[v]))
    protocols = sorted({str(name) for name in numbers["own_protocol"].dropna()} - {"paper"})
    if protocols:
        print(
            f"your numbers use protocol {', '.join(protocols)}, the published ones paper: a difference may be due to it"
        )
    for row in results["curves"].to_dict("records"):
        if row["differ"]:
            print(
                f"differ: {row['series']} on {row['eval dataset']} ({row['metric']}) at {row['differ']} of "
                f"{row['checkpoints']} checkpoints; own minus published {row['mean_difference']:+.3g} on average, 95% "
                f"interval {row['ci_low']:+.3g} to {row['ci_high']:+.3g}"
            )
    agreements = Counter(claims["agreement"])
    print(
        f"{len(claims)} claims tested on both: "
        + (", ".join(f"{n} {name}" for name, n in agreements.items()) or "none")
    )
    for claim in select(claims, agreement="differ").to_dict("records"):
        print(f"differ: {claim['claim']}: own {claim['own']}, published {claim['published']}")
    for (kind, setting, why), rows in groups(results["unsound"], "kind", "setting", "why"):
        print(f"degenerate: {len(rows)} published rows of {setting} ({kind}): {why}")


if __name__ == "__main__":
    run(main, Args)
