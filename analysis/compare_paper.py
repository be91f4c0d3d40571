"""One's own results against the authors' released tables: where they agree, where not, and what not to compare with.

Reads    the tables of results/analysis (made by produce_tables.py), and the released tables.
Writes   results/analysis/paper/numbers.csv  a row for each published number: one's own beside it, difference, verdict
         results/analysis/paper/curves.csv   the same by curve over checkpoints
         results/analysis/paper/claims.csv   the claims that can be put to both, and both verdicts
         results/analysis/paper/unsound.csv  published rows that measure nothing, and what shows it

    python analysis/compare_paper.py --released ../released_tables
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.findings import LEVEL, find
from analysis.inference.degenerate_results import faults
from analysis.inference.unpaired import Z_95, normal_result
from analysis.produce_tables import gather_released, tables_from
from analysis.tables.frames import (
    DIGITS,
    TIDY_TABLE,
    Tables,
    groups,
    in_order,
    read_tables,
    select,
    table_files,
    where,
)
from analysis.tables.released import FAMILY, RELEASED
from eval.metrics.significance import holm, trend
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError

VERDICTS = ("agree", "unclear", "differ", "no error published", "unsound", "not measured")
ASKED = ("kind", "eval_set", "format", "metric", "shots")
MODEL = ("checkpoint", "train_set", "epochs", "lr")


@dataclass(frozen=True)
class Args:
    released: Path
    """Folder of the authors' released tables."""
    own: Path | None = None
    """Folder of one's own tables (default: results/analysis)."""


def main(args: Args) -> None:
    folder = args.own or paths.results_dir()
    own, gathered = of_family(read_tables(folder), folder), gather_released(args.released)
    released = tables_from(gathered)
    unsound = unsound_rows(released)
    numbers = compare_numbers(own, released, unsound)
    results = {
        "numbers": numbers,
        "curves": compare_curves(numbers),
        "claims": compare_claims(own, released),
        "unsound": unsound,
    }
    output = paths.results_dir() / "paper"
    inputs = table_files(folder) | {f"released {name}": path for name, path in gathered.inputs.items()}
    with Artifact(output, arguments={"level": LEVEL}, inputs=inputs).making(is_folder=True):
        for name, frame in results.items():
            frame.to_csv(output / f"{name}.csv", index=False, lineterminator="\n", float_format=DIGITS)
    report(results)
    print(f"wrote {', '.join(f'{name}.csv' for name in results)} to {output}")


def of_family(own: Tables, folder: Path) -> Tables:
    """The own models that are of the released tables' family.  Raises UserError where there are none."""
    both = pd.concat([own.performance, own.suites])
    if any(str(source).startswith(tuple(f"{name}:" for name in RELEASED)) for source in both["source"]):
        raise UserError(
            f"{folder} holds the released tables themselves; make the tables of your own measurements first, with "
            "`python analysis/produce_tables.py`, or name their folder with --own"
        )
    if FAMILY not in set(both["family"]):
        found = ", ".join(sorted({str(name) for name in both["family"]}))
        raise UserError(
            f"{folder / TIDY_TABLE}: found models of {found}; expected some of {FAMILY}, which the released tables are "
            "of: run a study of it, e.g. scripts/studies/paper.yaml"
        )
    return replace(
        own, **{name: select(frame, family=FAMILY) for name, frame in vars(own).items() if "family" in frame}
    )


def unsound_rows(released: Tables) -> pd.DataFrame:
    """A row for each published row that is unsound, in the order of the tables."""
    rows = [
        {"source": source, **{key: value for key, value in asdict(fault).items() if key != "sources"}}
        for fault in faults(released.performance, released.suites)
        for source in fault.sources
    ]
    columns = ["source", "kind", "setting", "where", "why"]
    return pd.DataFrame(sorted(rows, key=place_in_file), columns=columns)


def place_in_file(row: Mapping[str, Any]) -> tuple[str, int]:
    name, _, line = str(row["source"]).partition(":")
    return name, int(line)


def compare_numbers(own: Tables, released: Tables, unsound: pd.DataFrame) -> pd.DataFrame:
    """Every published row, beside every own one that asked the same of the same model: recipe, format and shots.

    Errors are taken as independent. Where both asked the same items they are not, and the interval is too wide.
    """
    why_unsound = dict(zip(unsound["source"], unsound["why"], strict=True))
    of_place: dict[tuple[Any, ...], list[dict[Any, Any]]] = {}
    for row in rows_of(own):
        of_place.setdefault(place(row), []).append(row)
    models = {tuple(plain(row[name]) for name in MODEL) for row in rows_of(own)}
    compared = []
    for published in rows_of(released):
        about = {name: published[name] for name in ("eval dataset", *ASKED, *MODEL)}
        about |= {"published": published["Performance"], "published_std": published["std"]}
        about |= {"published_source": published["source"], "note": why_unsound.get(published["source"])}
        for mine in of_place.get(place(published), []):
            compared.append(about | measured(mine, published, is_unsound=published["source"] in why_unsound))
        if place(published) not in of_place:
            is_there = tuple(plain(published[name]) for name in MODEL) in models
            note = "that model was not asked this, in this format with so many shots" if is_there else "no such model"
            compared.append(about | {"verdict": "not measured", "note": note})
    return judged(pd.DataFrame(compared))


def rows_of(tables: Tables) -> list[dict[Any, Any]]:
    return [row for frame in (tables.performance, tables.suites) for row in frame.to_dict("records")]


def place(row: Mapping[Any, Any]) -> tuple[Any, ...]:
    return tuple(plain(row[name]) for name in (*ASKED, *MODEL))


def plain(value: Any) -> Any:
    """Comparable: an empty cell is None; a learning rate is one, however it was written."""
    return None if value is None or pd.isna(value) else float(f"{value:.6g}") if isinstance(value, float) else value


def measured(own: Mapping[Any, Any], published: Mapping[Any, Any], *, is_unsound: bool) -> dict[str, Any]:
    difference = own["Performance"] - published["Performance"]
    result = normal_result(difference, float(np.hypot(own["std"], published["std"])))
    mine = {"own_series": own["series"], "own": own["Performance"], "own_std": own["std"], "own_n": own["n"]}
    mine |= {"own_protocol": own["protocol"], "own_source": own["source"], "difference": difference}
    verdict = "unsound" if is_unsound else "no error published" if "missing" in result else None
    return mine | {"verdict": verdict} | {name: value for name, value in result.items() if name != "missing"}


def judged(numbers: pd.DataFrame) -> pd.DataFrame:
    """Verdicts: within the 95% interval, out of it after Holm's correction over all numbers, or between the two."""
    wanted = [*("own_series", "eval dataset"), *ASKED, *MODEL, "own", "own_std", "published", "published_std"]
    wanted += ["difference", "ci_low", "ci_high", "p_value", "p_holm", "verdict", "note", "own_n", "own_protocol"]
    numbers = numbers.reindex(columns=[*wanted, "own_source", "published_source"])
    open_rows = np.flatnonzero(numbers["verdict"].isna())
    if len(open_rows):
        corrected = holm(numbers["p_value"].to_numpy(float)[open_rows])
        is_inside = (numbers["ci_low"] <= 0) & (numbers["ci_high"] >= 0)
        verdicts = numbers["verdict"].astype(object).to_numpy(copy=True)
        p_holm = np.full(len(numbers), np.nan)
        for i, p_value in zip(open_rows, corrected, strict=True):
            p_holm[i] = p_value
            verdicts[i] = "agree" if is_inside.iloc[i] else "differ" if p_value <= LEVEL else "unclear"
        numbers = numbers.assign(verdict=verdicts, p_holm=p_holm)
    return numbers


def compare_curves(numbers: pd.DataFrame) -> pd.DataFrame:
    """Of each curve over checkpoints: verdicts, mean difference with its interval, and whether both go the same way."""
    rows = []
    found = where(numbers, numbers["own"].notna())
    for (series, dataset, kind, metric, shots), curve in groups(
        found, "own_series", "eval dataset", "kind", "metric", "shots"
    ):
        ordered = in_order(curve)
        columns = ("own", "published", "own_std", "published_std")
        mine, theirs, my_error, their_error = (ordered[name].to_numpy(float) for name in columns)
        counts = Counter(ordered["verdict"])
        mean = float(np.mean(mine - theirs))
        half = Z_95 * float(np.sqrt(np.square(my_error).sum() + np.square(their_error).sum())) / len(ordered)
        about: dict[str, Any] = {"series": series, "eval dataset": dataset, "kind": kind, "metric": metric}
        about |= {"shots": shots, "checkpoints": len(ordered), **{name: counts[name] for name in VERDICTS[:-1]}}
        about |= {"mean_difference": mean, "ci_low": mean - half, "ci_high": mean + half}
        about["kendall_tau"] = trend(mine, theirs).tau if len(ordered) >= 3 and np.ptp(mine) > 0 else None
        rows.append(about)
    return pd.DataFrame(rows)


def compare_claims(own: Tables, released: Tables) -> pd.DataFrame:
    """Claims that both can be asked, and what each answers; a claim that is missing in both says nothing."""
    published = {(finding.family, finding.claim): finding for finding in find(released)}
    rows = []
    for mine in find(own):
        theirs = published.get((mine.family, mine.claim))
        if theirs is None or mine.verdict == theirs.verdict == "missing":
            continue
        is_told = {mine.verdict, theirs.verdict} <= {"supported", "contradicted"}
        agreement = "cannot be told" if not is_told else "agree" if mine.verdict == theirs.verdict else "differ"
        row = {"family": mine.family, "claim": mine.claim, "own": mine.verdict, "published": theirs.verdict}
        row |= {"agreement": agreement, "own_effect": mine.effect, "published_effect": theirs.effect}
        rows.append(row | {"own_sentence": mine.sentence, "published_sentence": theirs.sentence})
    columns = ["family", "claim", "own", "published", "agreement", "own_effect", "published_effect"]
    return pd.DataFrame(rows, columns=[*columns, "own_sentence", "published_sentence"])


def report(results: Mapping[str, pd.DataFrame]) -> None:
    numbers, curves, claims, unsound = (results[name] for name in ("numbers", "curves", "claims", "unsound"))
    counts = Counter(numbers["verdict"])
    print(f"{len(numbers)} published numbers: " + ", ".join(f"{counts[v]} {v}" for v in VERDICTS if counts[v]))
    protocols = sorted({str(name) for name in numbers["own_protocol"].dropna()} - {"paper"})
    if protocols:
        print(
            f"own numbers of protocol {', '.join(protocols)}, published ones of paper: a difference may be of protocol"
        )
    for row in curves.to_dict("records"):
        if row["differ"]:
            print(
                f"differ: {row['series']} on {row['eval dataset']} ({row['metric']}) at {row['differ']} of "
                f"{row['checkpoints']} checkpoints; own minus published {row['mean_difference']:+.3g} on average, 95% "
                f"interval {row['ci_low']:+.3g} to {row['ci_high']:+.3g}"
            )
    agreements = Counter(claims["agreement"])
    print(
        f"{len(claims)} claims put to both: " + (", ".join(f"{n} {name}" for name, n in agreements.items()) or "none")
    )
    for claim in select(claims, agreement="differ").to_dict("records"):
        print(f"differ: whether {claim['claim']}: own {claim['own']}, published {claim['published']}")
    for (kind, setting, why), rows in groups(unsound, "kind", "setting", "why"):
        print(f"unsound: {len(rows)} published rows of {setting} ({kind}): {why}")


if __name__ == "__main__":
    run(main, Args)
