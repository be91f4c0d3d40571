"""The paper's mean changes by fine-tuning, over its own pairs of train and evaluation set: paper_means.csv.

Its figure 3 has tables of the tasks that are learned in fine-tuning and of those learned in pre-training, figure 6 has
bars for each direction of transfer, figure 7 for each checkpoint and each family of tasks. Other tables of this project
take their pairs from the study; here they are those of the authors' notebook, with SciQ twice among the tasks learned
in pre-training.

The interval of a mean is the mean of its pairs' 95% intervals. The standard error of a mean is at most the mean of the
standard errors, however the pairs are correlated, so it is conservative.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.tables.chance import bottom_of
from analysis.tables.columns import ALL_CHECKPOINTS, PAPER_MEAN_COLUMNS, Comparison
from analysis.tables.frames import (
    Tables,
    as_table,
    base_series,
    found_checkpoints,
    is_empty,
    number,
    primary_only,
    select,
    usual,
)
from analysis.tables.intervals import Z_95
from open_instruct.checkpoints.family import MAIN

SUITES = "tulu"
"""The train set whose models are evaluated on suite tasks; on SciQ as a suite task, not on generating its questions."""
SHOTS = 4
"""Exemplars in the paper's figures, where a study evaluates with several numbers."""
MAIN_STEP = {"olmo1b": 750_000}
"""Family -> the step of `main` in slopes: the authors' number. OLMo-1B's last checkpoint is 20 steps before `main`, a
distance over which no slope says anything."""
SLOPE_STEPS = 100_000
LEARNED_IN_FINE_TUNING, LEARNED_IN_PRE_TRAINING = "learned in fine-tuning", "learned in pre-training"
TO_GENERATION, TO_CLASSIFICATION = "classification to generation", "generation to classification"
ALL_PAIRS = "all pairs"
FAMILIES_OF_TASKS = {
    "question generation": ("socialiqa: tweetqa sciq",),
    "summarization": ("xsum: cnn",),
    "inference": ("mnli: rte gpt3nli",),
    "paraphrase": ("paws: qqp stsb",),
}
PAIRS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "3": {
        LEARNED_IN_FINE_TUNING: (
            "mnli: mnli_matched mnli_mismatched",
            "paws: paws",
            "xsum: xsum xlsum",
            "socialiqa: socialiqa",
            "tulu: boolq",
        ),
        LEARNED_IN_PRE_TRAINING: ("tulu: sciq hellaswag arc_challenge arc_easy openbookqa sciq",),
    },
    "6": {
        TO_GENERATION: ("mnli: xsum socialiqa", "paws: xsum socialiqa"),
        TO_CLASSIFICATION: ("xsum: paws mnli_matched", "socialiqa: mnli_matched paws"),
    },
    "7": {ALL_PAIRS: tuple(pair for pairs in FAMILIES_OF_TASKS.values() for pair in pairs), **FAMILIES_OF_TASKS},
}
"""Figure -> group -> train set and its evaluation sets."""


class Change(NamedTuple):
    """Change by fine-tuning of one pair at one checkpoint."""

    base: float
    change: float
    ci_low: float
    ci_high: float
    is_above_chance: bool
    """Whether the base's 95% interval is."""
    is_degenerate: bool
    unit: str | None
    replicates: int | None


def paper_means(tables: Tables) -> pd.DataFrame:
    """A row for each figure, group and checkpoint, and for all checkpoints after step 0; none for a group unmeasured.

    A checkpoint that lacks a pair has no mean, and `missing` names the pair. Slopes are from the previous checkpoint.
    """
    rows = []
    scored = primary_only(usual(select(tables.levels, format="default")))
    compared = primary_only(usual(select(tables.differences, comparison=Comparison.CHANGE, format="default")))
    for family, checkpoints in found_checkpoints(scored).items():
        changes = Changes(select(scored, family=family), select(compared, family=family), family)
        for figure, groups in PAIRS.items():
            for group, pairs in groups.items():
                found = list(group_rows(changes, list(pairs_of(pairs)), checkpoints, MAIN_STEP.get(family)))
                if any(row.get("mean raw change") is not None for row in found):
                    rows += [{"family": family, "figure": figure, "group": group, **row} for row in found]
    return as_table(rows, PAPER_MEAN_COLUMNS)


def pairs_of(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        train_set, _, eval_sets = line.partition(": ")
        yield from ((train_set, eval_set) for eval_set in eval_sets.split())


class Changes:
    """Changes of one family's models, looked up by pair and checkpoint."""

    def __init__(self, levels: pd.DataFrame, differences: pd.DataFrame, family: str):
        self.base = base_series(levels, family)
        self.levels = by_place(levels)
        self.differences = by_place(differences)
        self.series: dict[str, set[str]] = {}
        for train_set, series in zip(levels["train_set"], levels["series"], strict=True):
            self.series.setdefault(train_set, set()).add(series)

    def of(self, train_set: str, eval_set: str, checkpoint: str) -> Change | None:
        """None where a score is missing, or several recipes were tried and none of them is the usual one."""
        series = self.series.get(train_set, set())
        if len(series) != 1:
            return None
        for setting in (eval_set, f"{eval_set} {SHOTS} shots"):
            about = (setting, train_set == SUITES, checkpoint)
            base, tuned = self.levels.get((self.base, *about)), self.levels.get((*series, *about))
            if base and tuned:
                return change_of(base, tuned, self.differences.get((*series, *about), {}))
        return None


def by_place(rows: pd.DataFrame) -> dict[tuple[Any, ...], dict[str, Any]]:
    """(series, setting, whether it is a suite task, checkpoint) -> row."""
    return {(r["series"], r["setting"], r["kind"] == "suite", r["checkpoint"]): r for r in rows.to_dict("records")}


def change_of(base: Mapping[str, Any], tuned: Mapping[str, Any], difference: Mapping[str, Any]) -> Change:
    """With the paired interval; where there is none, as of degenerate scores, with that of independent errors."""
    change = tuned["Performance"] - base["Performance"]
    low, high = number(difference.get("ci_low")), number(difference.get("ci_high"))
    if low is None or high is None:
        half = Z_95 * float(np.hypot(base["std"], tuned["std"]))
        low, high = change - half, change + half
    chance = bottom_of(base["metric"], base["eval_set"], base["kind"])
    is_above_chance = chance is not None and base["ci_low"] > chance
    is_degenerate = not is_empty(base["degenerate"]) or not is_empty(tuned["degenerate"])
    about = (is_above_chance, is_degenerate, tuned["unit"], tuned["replicates"])
    return Change(base["Performance"], change, low, high, *about)


def group_rows(
    changes: Changes, pairs: Sequence[tuple[str, str]], checkpoints: Sequence[str], main_step: int | None
) -> Iterator[dict[str, Any]]:
    whole: list[Change] = []
    gone: list[str] = []
    previous: tuple[int, float] | None = None
    for checkpoint in checkpoints:
        found = {pair: changes.of(*pair, checkpoint) for pair in pairs}
        absent = [f"{eval_set} ({train_set})" for (train_set, eval_set), change in found.items() if change is None]
        if absent:
            yield {"checkpoint": checkpoint, "pairs": len(pairs), "missing": ", ".join(absent)}
            gone += [] if checkpoint == "0" else [checkpoint]
            previous = None
            continue
        of_checkpoint = [change for pair in pairs if (change := found[pair]) is not None]
        row = mean_of(of_checkpoint)
        step = main_step if checkpoint == MAIN else int(checkpoint)
        if previous and step is not None:
            row["slope per 100k steps"] = (row["mean raw change"] - previous[1]) / (step - previous[0]) * SLOPE_STEPS
        previous = None if step is None else (step, row["mean raw change"])
        whole += [] if checkpoint == "0" else of_checkpoint
        yield {"checkpoint": checkpoint, "pairs": len(pairs), **row}
    over_all = mean_of(whole) if whole and not gone else {"missing": ", ".join(gone) or None}
    yield {"checkpoint": ALL_CHECKPOINTS, "pairs": len(pairs), **over_all}


def mean_of(changes: Sequence[Change]) -> dict[str, Any]:
    """Means over pairs, or over pairs and checkpoints."""
    relative = [one.change / one.base if one.base else np.nan for one in changes]
    has_relative = all(one.is_above_chance and not one.is_degenerate for one in changes)
    return {
        "degenerate changes": sum(one.is_degenerate for one in changes),
        "mean raw change": float(np.mean([one.change for one in changes])),
        "ci_low": float(np.mean([one.ci_low for one in changes])),
        "ci_high": float(np.mean([one.ci_high for one in changes])),
        "mean relative change": float(np.mean(relative)) if has_relative else None,
        "mean relative change as published": float(np.mean(relative)),
        "unit": changes[0].unit,
        "replicates": min((one.replicates for one in changes if one.replicates is not None), default=None),
    }
