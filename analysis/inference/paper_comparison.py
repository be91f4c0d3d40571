"""Compare your own results with the authors' released tables: numbers, curves over checkpoints, and claims."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.inference.degenerate_results import degenerate_results
from analysis.inference.findings import LEVEL, NOT_TESTABLE, find
from analysis.inference.unpaired import normal_result
from analysis.tables.columns import TIDY_TABLE
from analysis.tables.frames import Tables, groups, in_order, is_empty, select, where
from analysis.tables.intervals import Z_95
from analysis.tables.released import FAMILY, RELEASED
from eval.metrics.significance import holm, trend
from open_instruct.common.errors import UserError

VERDICTS = ("agree", "unclear", "differ", "no error published", "unsound", "not measured")
EVALUATION = ("kind", "eval_set", "format", "metric", "shots")
MODEL = ("checkpoint", "train_set", "epochs", "lr")
NUMBER_COLUMNS = ("own_series", "eval dataset", *EVALUATION, *MODEL, "own", "own_std", "published", "published_std")
NUMBER_COLUMNS += ("difference", "ci_low", "ci_high", "p_value", "p_holm", "verdict", "note", "own_n", "own_protocol")
NUMBER_COLUMNS += ("own_source", "published_source")
CLAIM_COLUMNS = ("family", "claim", "own", "published", "agreement", "own_effect", "published_effect")
CLAIM_COLUMNS += ("own_sentence", "published_sentence")


def compare(own: Tables, released: Tables) -> dict[str, pd.DataFrame]:
    """File name (without ending) -> table, of the folder paper."""
    degenerate = degenerate_rows(released)
    numbers = compare_numbers(own, released, degenerate)
    claims = compare_claims(own, released)
    return {"numbers": numbers, "curves": compare_curves(numbers), "claims": claims, "unsound": degenerate}


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


def compare_numbers(own: Tables, released: Tables, degenerate: pd.DataFrame) -> pd.DataFrame:
    """Each published row, beside each own row of the same model and evaluation: recipe, format and shots.

    Errors are assumed to be independent; if both evaluated the same items, the interval is too wide.
    """
    why_degenerate = {source: "; ".join(rows["why"]) for (source,), rows in groups(degenerate, "source")}
    own_rows: dict[tuple[Any, ...], list[dict[Any, Any]]] = {}
    for row in own.scores.to_dict("records"):
        own_rows.setdefault(key_of(row), []).append(row)
    own_models = {key[len(EVALUATION) :] for key in own_rows}
    compared = []
    for published in released.scores.to_dict("records"):
        key, source = key_of(published), published["source"]
        about = {name: published[name] for name in ("eval dataset", *EVALUATION, *MODEL)}
        about |= {"published": published["Performance"], "published_std": published["std"]}
        about |= {"published_source": source, "note": why_degenerate.get(source)}
        for mine in own_rows.get(key, []):
            compared.append(about | difference(mine, published, is_degenerate=source in why_degenerate))
        if key not in own_rows:
            is_known = key[len(EVALUATION) :] in own_models
            note = "the model was not evaluated in this format and number of shots" if is_known else "no such model"
            compared.append(about | {"verdict": "not measured", "note": note})
    return judge_numbers(pd.DataFrame(compared))


def key_of(row: Mapping[Any, Any]) -> tuple[Any, ...]:
    return tuple(comparable(row[name]) for name in (*EVALUATION, *MODEL))


def comparable(value: Any) -> Any:
    """An empty cell as None; a float rounded, so that a learning rate is equal however it was written."""
    return None if is_empty(value) else float(f"{value:.6g}") if isinstance(value, float) else value


def difference(own: Mapping[Any, Any], published: Mapping[Any, Any], *, is_degenerate: bool) -> dict[str, Any]:
    effect = own["Performance"] - published["Performance"]
    result = normal_result(effect, float(np.hypot(own["std"], published["std"])))
    row = {"own_series": own["series"], "own": own["Performance"], "own_std": own["std"], "own_n": own["n"]}
    row |= {"own_protocol": own["protocol"], "own_source": own["source"], "difference": effect}
    verdict = "unsound" if is_degenerate else "no error published" if "missing" in result else None
    return row | {"verdict": verdict} | {name: value for name, value in result.items() if name != "missing"}


def judge_numbers(numbers: pd.DataFrame) -> pd.DataFrame:
    """Verdicts: `agree` within the 95% interval, `differ` after Holm's correction over all numbers, else `unclear`."""
    numbers = numbers.reindex(columns=list(NUMBER_COLUMNS))
    tested = np.flatnonzero(numbers["verdict"].isna())
    if len(tested) == 0:
        return numbers
    is_inside = ((numbers["ci_low"] <= 0) & (numbers["ci_high"] >= 0)).to_numpy()
    verdicts = numbers["verdict"].astype(object).to_numpy(copy=True)
    p_holm = np.full(len(numbers), np.nan)
    p_holm[tested] = holm(numbers["p_value"].to_numpy(float)[tested])
    for i in tested:
        verdicts[i] = "agree" if is_inside[i] else "differ" if p_holm[i] <= LEVEL else "unclear"
    return numbers.assign(verdict=verdicts, p_holm=p_holm)


def compare_curves(numbers: pd.DataFrame) -> pd.DataFrame:
    """Of each curve over checkpoints: counts of verdicts, mean difference with interval, Kendall's tau of the two."""
    rows = []
    found = where(numbers, numbers["own"].notna())
    for (series, dataset, kind, metric, shots), curve in groups(
        found, "own_series", "eval dataset", "kind", "metric", "shots"
    ):
        ordered = in_order(curve)
        columns = ("own", "published", "own_std", "published_std")
        own, published, own_error, published_error = (ordered[name].to_numpy(float) for name in columns)
        counts = Counter(ordered["verdict"])
        mean = float(np.mean(own - published))
        half = Z_95 * float(np.sqrt(np.square(own_error).sum() + np.square(published_error).sum())) / len(ordered)
        row: dict[str, Any] = {"series": series, "eval dataset": dataset, "kind": kind, "metric": metric}
        row |= {"shots": shots, "checkpoints": len(ordered), **{name: counts[name] for name in VERDICTS[:-1]}}
        row |= {"mean_difference": mean, "ci_low": mean - half, "ci_high": mean + half}
        row["kendall_tau"] = trend(own, published).tau if len(ordered) >= 3 and np.ptp(own) > 0 else None
        rows.append(row)
    return pd.DataFrame(rows)


def compare_claims(own: Tables, released: Tables) -> pd.DataFrame:
    """Verdicts on the claims that both tables have; a claim that is testable in neither is left out."""
    published = {(finding.family, finding.claim): finding for finding in find(released)}
    rows = []
    for mine in find(own):
        theirs = published.get((mine.family, mine.claim))
        if theirs is None or mine.verdict == theirs.verdict == NOT_TESTABLE:
            continue
        is_decided = {mine.verdict, theirs.verdict} <= {"supported", "contradicted"}
        agreement = "undecided" if not is_decided else "agree" if mine.verdict == theirs.verdict else "differ"
        row = {"family": mine.family, "claim": mine.claim, "own": mine.verdict, "published": theirs.verdict}
        row |= {"agreement": agreement, "own_effect": mine.effect, "published_effect": theirs.effect}
        rows.append(row | {"own_sentence": mine.sentence, "published_sentence": theirs.sentence})
    return pd.DataFrame(rows, columns=list(CLAIM_COLUMNS))
