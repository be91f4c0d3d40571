"""Published numbers that measure nothing, found from the numbers alone.

constant gold    labels are hidden or all the same: a base model at its first checkpoint, which cannot do the task,
                 scores all but perfectly, and so do most base models; whoever always gives that label wins
perfect row      one model scores exactly 0 or 1 without spread on labels, where others of its curve do not
repeated value   the same number to the last digit at different checkpoints of a curve: one model measured twice, or a
                 copied row
"""

from dataclasses import dataclass

import pandas as pd

from analysis.tables.frames import (
    groups,
    in_order,
    select,
    where,
)

NEARLY_ALL = 0.99
MOSTLY = 0.95


@dataclass(frozen=True)
class Fault:
    kind: str
    setting: str
    where: str
    why: str
    sources: tuple[str, ...]
    """Of the rows: file and line of a released table, or metrics file."""


def faults(performance: pd.DataFrame, suites: pd.DataFrame) -> list[Fault]:
    constant = unsound_settings(performance)
    found = [
        Fault("constant gold", setting, "all rows", why, sources_of(select(performance, setting=setting)))
        for setting, why in constant.items()
    ]
    found += [fault for fault in perfect_rows(performance) if fault.setting not in constant]
    return found + repeated_values(pd.concat([frame for frame in (performance, suites) if len(frame)]))


def sources_of(rows: pd.DataFrame) -> tuple[str, ...]:
    return tuple(str(source) for source in rows["source"])


def unsound_settings(performance: pd.DataFrame) -> dict[str, str]:
    """Settings with labels whose gold is constant, and what shows it."""
    found = {}
    of_bases = select(performance, metric="accuracy", format="default", kind="labels", train_set=None)
    for (_, series), rows in groups(of_bases, "setting", "series"):
        ordered = in_order(rows)
        scores = ordered["Performance"].astype(float)
        if len(scores) >= 2 and scores.iloc[0] >= NEARLY_ALL and scores.median() >= MOSTLY:
            found[str(rows["eval_set"].iloc[0])] = (
                f"the {series} model at its first checkpoint, {ordered['checkpoint'].iloc[0]}, scores "
                f"{scores.iloc[0]:.6g}, and the median over checkpoints is {scores.median():.3f}: "
                "the gold is one label, so always saying it is right"
            )
    # Another number of exemplars asks about the same gold.
    asked = zip(performance["setting"], performance["eval_set"], performance["kind"], strict=True)
    return {setting: found[eval_set] for setting, eval_set, kind in asked if eval_set in found and kind == "labels"}


def perfect_rows(performance: pd.DataFrame) -> list[Fault]:
    labelled = select(performance, kind="labels", metric="accuracy")
    extreme = where(labelled, labelled["Performance"].isin([0.0, 1.0]) & (labelled["std"] == 0))
    return [
        Fault(
            "perfect row",
            row["setting"],
            f"{row['model_id']} on {row['eval dataset']}",
            f"scores exactly {row['Performance']:g} with no spread, while others of its curve do not",
            (str(row["source"]),),
        )
        for row in extreme.to_dict("records")
    ]


def repeated_values(scores: pd.DataFrame) -> list[Fault]:
    found = []
    # Where the number of items is known, k of n may well come about twice.
    published = where(scores, scores["n"].isna())
    for (series, dataset, setting, metric), rows in groups(published, "series", "eval dataset", "setting", "metric"):
        for value, same in rows.groupby("Performance"):
            # 0, 1 and hundredths come about by chance; sixteen equal digits do not.
            if len(same) > 1 and abs(round(float(str(value)), 3) - float(str(value))) > 1e-9:
                names = ", ".join(in_order(same)["checkpoint"])
                why = (
                    f"{float(str(value)):.6g} ({metric}) to the last digit at each: one model measured twice, or copied"
                )
                found.append(
                    Fault("repeated value", setting, f"{series} at {names} on {dataset}", why, sources_of(same))
                )
    return found
