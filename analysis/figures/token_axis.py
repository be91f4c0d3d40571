"""Checkpoints of several families on one axis: by step where it is as many tokens in all of them, else by tokens."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Literal

import pandas as pd

from analysis.tables.frames import Tables
from open_instruct.common.errors import UserError

EQUAL = 0.01
"""Largest relative difference of tokens that are the same point of pre-training."""
Axis = Literal["auto", "step", "tokens"]
Place = tuple[str, str]
"""Family and checkpoint."""


def on_axis(tables: Tables, axis: Axis = "auto") -> tuple[Tables, Literal["step", "tokens"]]:
    """The tables with checkpoints named by their place on the axis, and what the axis is.

    `auto`  steps, or tokens where a step is not as many in all models, as of other batch sizes and later stages
    (models whose tokens are not known are then left out, and named)
    Raises UserError for steps where these are different, and for tokens where some are not known.
    """
    tokens = tokens_of(tables)
    steps = {(str(f), str(c)) for f, c in zip(tables.scores["family"], tables.scores["checkpoint"], strict=True)}
    unknown = sorted({family for family, name in steps - tokens.keys() if name.isdigit()})
    differ = differing_steps(tokens)
    if axis == "tokens" and unknown and len({family for family, _ in steps}) > 1:
        raise UserError(
            f"the tokens of {', '.join(unknown)} are not known: add tokens_per_step to families.yaml and make the "
            "tables again"
        )
    if axis == "step" and differ:
        raise UserError(f"{differ}: models are compared by tokens, never by step; draw by --axis tokens")
    if axis == "auto" and differ and unknown:
        print(f"figures are by tokens, without {', '.join(unknown)}: families.yaml has no tokens_per_step of these")
        tables = without(tables, unknown)
    if axis == "tokens" or (axis == "auto" and differ):
        return in_tokens(tables, tokens), "tokens"
    return tables, "step"


def without(tables: Tables, families: Collection[str]) -> Tables:
    frames = {name: frame for name, frame in vars(tables).items() if "family" in frame}
    return replace(tables, **{name: frame[~frame["family"].isin(list(families))] for name, frame in frames.items()})


def tokens_of(tables: Tables) -> dict[Place, int]:
    both = tables.scores[["family", "checkpoint", "tokens"]].dropna().drop_duplicates()
    return {(family, name): int(count) for family, name, count in both.itertuples(index=False, name=None)}


def differing_steps(tokens: Mapping[Place, int]) -> str:
    """Two families whose steps are not as many tokens, in words; empty where there are none."""
    first: tuple[float, Place] | None = None
    for place, count in tokens.items():
        if place[1].isdigit() and int(place[1]):
            of_step = count / int(place[1])
            first = first or (of_step, place)
            if abs(of_step - first[0]) > EQUAL * max(of_step, first[0]):
                said = (f"{tokens[one]:,} tokens after {one[1]} steps of {one[0]}" for one in (first[1], place))
                return " and ".join(said)
    return ""


def matched(tokens: Mapping[Place, int]) -> dict[Place, int]:
    """Tokens of each checkpoint, those of different families that are equal within 1% as one number.

    Two checkpoints of one family are never the same.
    """
    found: dict[Place, int] = {}
    start, families = 0, set[str]()
    for place, count in sorted(tokens.items(), key=lambda known: (known[1], known[0])):
        if count > start * (1 + EQUAL) or place[0] in families:
            start, families = count, set()
        families.add(place[0])
        found[place] = start
    return found


def in_tokens(tables: Tables, tokens: Mapping[Place, int]) -> Tables:
    """The tables with the number of tokens in place of the step as name of each checkpoint."""
    names = matched(tokens)

    def renamed(frame: pd.DataFrame) -> pd.DataFrame:
        places = zip(frame["family"], frame["checkpoint"], strict=True)
        found = [str(names.get(place, place[1])) for place in places]
        return frame.assign(checkpoint=pd.Series(found, index=frame.index, dtype=object))

    return replace(tables, **{name: renamed(frame) for name, frame in vars(tables).items() if "checkpoint" in frame})
