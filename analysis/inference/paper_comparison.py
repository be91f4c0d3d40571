"""Compare your own results with the authors' released tables: numbers, curves over checkpoints, and effects.

Two numbers agree if their difference is equivalent to zero within a margin of their metric (two one-sided tests at 5%).
They differ if the difference is larger than the margin and significant, with the false discovery rate over all numbers
held at 5%. Else it is unclear: an interval that covers zero is no agreement. The published models are one run each, so
their errors are over items only, and a difference may be due to that run. Yours are over your replicates too.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.inference.degenerate_results import degenerate_results, why_degenerate
from analysis.inference.equivalence import equivalent
from analysis.inference.findings import find
from analysis.inference.multiplicity import adjusted
from analysis.inference.paper_coverage import Key, Measured, key_of
from analysis.tables.columns import FILES, TIDY_TABLE
from analysis.tables.frames import Tables, groups, in_order, number, select, where
from analysis.tables.released import FAMILY, RELEASED
from open_instruct.common.errors import UserError

LEVEL = 0.05
COMPARED = ("agree", "unclear", "differ")
VERDICTS = (*COMPARED, "no error published", "unsound", "not measured")
DIRECTIONS = ("same sign", "opposite sign", "unclear")
EVALUATION = ("kind", "eval_set", "format", "metric", "shots")
PLACE = ("series", "checkpoint", "setting", "format", "metric", "kind")
"""Columns that name a score in the tables; its replicates share them."""
MODEL = ("checkpoint", "train_set", "epochs", "lr")
TESTED = ("difference", "std", "df", "ci_low", "ci_high", "p_value", "p_adjusted", "margin", "p_equivalence", "verdict")
NUMBER_COLUMNS = ("own_series", "eval dataset", *EVALUATION, *MODEL, "own", "own_std", "published", "published_std")
NUMBER_COLUMNS += (
    *TESTED,
    "note",
    "own_n",
    "own_replicates",
    "own_unit",
    "own_protocol",
    "own_source",
    "published_source",
)
CURVE_COLUMNS = ("series", "eval dataset", "kind", "metric", "shots", "checkpoints", *VERDICTS[:-1])
CURVE_COLUMNS += (*TESTED, "kendall_tau")
EFFECT = ("effect", "ci_low", "ci_high")
CLAIM_COLUMNS = ("question", "claim", *(f"own_{name}" for name in EFFECT), *(f"published_{name}" for name in EFFECT))
CLAIM_COLUMNS += ("difference", "agreement", "own_verdict")


def compare(own: Tables, released: Tables, margins: Mapping[str, float]) -> dict[str, pd.DataFrame]:
    """File name (without ending) -> table, of the folder paper.

    `margins`: metric -> largest difference that counts as none.
    """
    numbers = compare_numbers(own, released, margins)
    curves, claims = compare_curves(numbers, margins), compare_claims(own, released)
    return {"numbers": numbers, "curves": curves, "claims": claims, "unsound": degenerate_rows(released)}


def of_released_family(own: Tables, folder: Path) -> Tables:
    """Your own models of the released tables' family.  Raises UserError where there are none."""
    if any(str(source).startswith(tuple(f"{name}:" for name in RELEASED)) for source in own.scores["source"]):
        raise UserError(
            f"{folder} has the released tables themselves; make the tables of your own measurements first, with "
            "`python analysis/produce_tables.py`, or choose others with --study or --folder"
        )
    if FAMILY not in set(own.scores["family"]):
        found = ", ".join(sorted({str(name) for name in own.scores["family"]}))
        raise UserError(
            f"{folder / TIDY_TABLE}: found models of {found}; expected some of {FAMILY}, the family of the released "
            "tables: run a study of it, e.g. scripts/studies/paper.yaml"
        )
    return replace(
        own, **{name: select(frame, family=FAMILY) for name, frame in vars(own).items() if "family" in frame}
    )


def degenerate_rows(released: Tables) -> pd.DataFrame:
    """A row for each published row that is degenerate, in the order of the tables."""
    rows = []
    for result in degenerate_results(released):
        about = asdict(result)
        rows += [{**about, "source": source} for source in about.pop("sources")]
    columns = ["source", "kind", "setting", "where", "why"]
    return pd.DataFrame(sorted(rows, key=position_in_file), columns=columns)


def position_in_file(row: Mapping[str, Any]) -> tuple[str, int]:
    name, _, line = str(row["source"]).partition(":")
    return name, int(line)


def compare_numbers(own: Tables, released: Tables, margins: Mapping[str, float]) -> pd.DataFrame:
    """Each published row, beside each own score of the same model and evaluation: recipe, format and shots.

    Errors are assumed to be independent; if both evaluated the same items, the interval is too wide.
    """
    unsound, own_rows = why_degenerate(released), own_scores(own)
    measured = Measured(own_rows)
    compared = []
    for published in released.scores.to_dict("records"):
        source = published["source"]
        about = {name: published[name] for name in ("eval dataset", *EVALUATION, *MODEL)}
        about |= {"published": published["Performance"], "published_std": published["std"]}
        about |= {"published_source": source, "note": unsound.get(source)}
        for mine in own_rows.get(key_of(published), []):
            note = "; ".join(filter(None, (unsound.get(source), mine["why"] and f"own: {mine['why']}")))
            compared.append(about | difference(mine, published, is_degenerate=bool(note)) | {"note": note or None})
        if why := measured.why_missing(published):
            compared.append(about | {"verdict": "not measured", "note": why})
    return judge(pd.DataFrame(compared).reindex(columns=list(NUMBER_COLUMNS)), margins)


def own_scores(own: Tables) -> dict[Key, list[dict[Any, Any]]]:
    """Own scores by key_of; `why` says why one is unsound.  Replicates are one score, that of the table of levels."""
    levels = own.levels.to_dict("records")
    pooled = {place_of(level): level for level in levels if (number(level["replicates"]) or 1) > 1}
    unsound = why_degenerate(own)
    found: dict[Key, dict[Any, dict[Any, Any]]] = {}
    for row in own.scores.to_dict("records"):
        score = row | {"df": np.inf, "replicates": 1, "unit": None, "why": unsound.get(row["source"])}
        same_model = found.setdefault(key_of(row), {})
        if level := pooled.get(place_of(row)):
            score |= {name: level[name] for name in ("Performance", "std", "df", "replicates", "unit", "n")}
            score["source"] = FILES["levels"]
            score["why"] = score["why"] or same_model.get(place_of(row), score)["why"]
        same_model[place_of(row) if level else row["source"]] = score
    return {key: list(scores.values()) for key, scores in found.items()}


def place_of(row: Mapping[Any, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in PLACE)


def difference(own: Mapping[Any, Any], published: Mapping[Any, Any], *, is_degenerate: bool) -> dict[str, Any]:
    effect = own["Performance"] - published["Performance"]
    error = float(np.hypot(own["std"], published["std"]))
    row = {"own_series": own["series"], "own": own["Performance"], "own_std": own["std"], "own_n": own["n"]}
    row |= {f"own_{name}": own[name] for name in ("replicates", "unit", "protocol", "source")}
    verdict = "unsound" if is_degenerate else "no error published" if np.isnan(error) else None
    # Welch: only the own error has degrees of freedom, those of its replicates.
    df = own["df"] * (error / own["std"]) ** 4 if own["std"] > 0 else np.inf
    return row | {"verdict": verdict, **with_interval(effect, error, df)}


def with_interval(effect: float, error: float, df: float) -> dict[str, float]:
    """t-interval and test of a difference; NaN where the error is."""
    # Errors of exactly zero: the scores are equal, or different for certain.
    p_value = 2 * stats.t.sf(abs(effect) / error, df) if error != 0 else float(effect == 0)
    half = float(stats.t.ppf(0.975, df)) * error
    interval = {"df": df, "ci_low": effect - half, "ci_high": effect + half}
    return {"difference": effect, "std": error, **interval, "p_value": float(p_value)}


def judge(compared: pd.DataFrame, margins: Mapping[str, float]) -> pd.DataFrame:
    """Verdict, adjusted p-value and p-value of equivalence of the rows that have no verdict yet.

    Raises UserError where their metric has no margin.
    """
    tested = np.flatnonzero(compared["verdict"].isna())
    metrics = [str(name) for name in compared["metric"].iloc[tested]]
    if unknown := sorted(set(metrics) - set(margins)):
        options = " ".join(f"{name}=0.02" for name in unknown)
        raise UserError(f"no margin of {', '.join(unknown)}; add --margin {options}, in units of the metric")
    margin, p_adjusted, p_equivalence = (np.full(len(compared), np.nan) for _ in range(3))
    effect, error, df, p_value = (compared[name].to_numpy(float) for name in ("difference", "std", "df", "p_value"))
    verdicts = compared["verdict"].astype(object).to_numpy(copy=True)
    if len(tested):
        margin[tested] = [margins[name] for name in metrics]
        p_adjusted[tested] = adjusted(p_value[tested])
        p_equivalence[tested] = equivalent(effect[tested], error[tested], df[tested], margin[tested])
    for i in tested:
        is_different = p_adjusted[i] <= LEVEL and abs(effect[i]) > margin[i]
        verdicts[i] = "agree" if p_equivalence[i] <= LEVEL else "differ" if is_different else "unclear"
    return compared.assign(margin=margin, p_adjusted=p_adjusted, p_equivalence=p_equivalence, verdict=verdicts)


def compare_curves(numbers: pd.DataFrame, margins: Mapping[str, float]) -> pd.DataFrame:
    """Of each curve over checkpoints: counts of verdicts, the mean difference, its verdict, Kendall's tau of the two.

    The mean is over the checkpoints that can be compared. They share items and runs, so their errors are taken as fully
    correlated: the error of the mean is the mean error.
    """
    rows = []
    found = where(numbers, numbers["own"].notna())
    names = ("own_series", "eval dataset", "kind", "metric", "shots")
    for (series, dataset, kind, metric, shots), curve in groups(found, *names):
        counts = Counter(curve["verdict"])
        row: dict[str, Any] = {"series": series, "eval dataset": dataset, "kind": kind, "metric": metric}
        row |= {"shots": shots, "checkpoints": len(curve), **{name: counts[name] for name in VERDICTS[:-1]}}
        ordered = in_order(where(curve, curve["verdict"].isin(COMPARED)))
        own, published, effect, error, df = (
            ordered[name].to_numpy(float) for name in ("own", "published", "difference", "std", "df")
        )
        if len(ordered):
            row |= with_interval(float(np.mean(effect)), float(np.mean(error)), float(np.min(df)))
        row["verdict"] = None if len(ordered) else "not compared"
        varies = len(ordered) >= 3 and np.ptp(own) > 0 and np.ptp(published) > 0
        correlation: Any = stats.kendalltau(own, published) if varies else None
        row["kendall_tau"] = correlation.statistic if varies else None
        rows.append(row)
    return judge(pd.DataFrame(rows).reindex(columns=list(CURVE_COLUMNS)), margins)


def compare_claims(own: Tables, released: Tables) -> pd.DataFrame:
    """Sign and size of the effects that both tables have, by claim.

    The published ones are of one run without seeds, so they have no verdict to compare. The sign is unclear where the
    interval of one of the two covers zero; the intervals may be over other things, as each finding says.
    """
    published = {claim_of(finding): finding for finding in map(asdict, find(released))}
    rows = []
    for mine in map(asdict, find(own)):
        theirs = published.get(claim_of(mine))
        if theirs is None or (effect := number(mine["effect"])) is None or theirs["effect"] is None:
            continue
        row = dict(zip(("question", "claim"), claim_of(mine), strict=True))
        for side, finding in (("own", mine), ("published", theirs)):
            row |= {f"{side}_{name}": finding[name] for name in EFFECT}
        row |= {"difference": effect - theirs["effect"], "agreement": agreement(mine, theirs)}
        rows.append(row | {"own_verdict": mine["verdict"]})
    return pd.DataFrame(rows, columns=list(CLAIM_COLUMNS))


def claim_of(finding: Mapping[str, Any]) -> tuple[str, str]:
    """The question that the claim belongs to, and the claim."""
    return finding.get("question") or finding.get("family") or "", finding["claim"]


def agreement(*findings: Mapping[str, Any]) -> str:
    """One of DIRECTIONS."""
    signs = {sign_of(finding) for finding in findings}
    return "unclear" if 0 in signs else "same sign" if len(signs) == 1 else "opposite sign"


def sign_of(finding: Mapping[str, Any]) -> int:
    """Sign of an effect whose interval does not cover zero; else 0."""
    low, high = number(finding["ci_low"]), number(finding["ci_high"])
    return 0 if low is None or high is None or low <= 0 <= high else int(np.sign(low))
