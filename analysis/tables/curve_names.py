"""What a curve and a way of asking are called.

A series is one curve over checkpoints: a family's base models, or those fine-tuned by one recipe. A setting is one way
of asking: an evaluation set, with shots and protocol where a table holds several. Both are named by what differs from
the usual, which is what nine rows in ten have.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

USUAL_SHARE = 0.9
CONDITIONS = ("shots", "protocol")
RECIPE = ("lr", "epochs", "seed", "adapter", "conversion")


def name_series(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add `series`, `setting` and `checkpoint` to rows that hold the identity of a model and of its evaluation."""
    several_families = len({row["family"] for row in rows}) > 1
    conditions = usual_values(rows, CONDITIONS, by=("kind",))
    recipes = usual_values(rows, RECIPE, by=("family", "train_set"))
    named = []
    for row in rows:
        details = [f"{key}={row.get(key)}" for key in RECIPE if differs(row, key, recipes, ("family", "train_set"))]
        prefix = [row["family"]] if several_families else []
        # A folder without sidecar belongs to no curve: it stands alone, under its own name.
        series = " ".join([*prefix, row["train_set"] or "base", *details]) if row["family"] else row["model_id"]
        asked = [f"{row[key]} {key}" for key in CONDITIONS if differs(row, key, conditions, ("kind",))]
        checkpoint = "main" if row["step"] is None else str(row["step"])
        named.append(
            {**row, "series": series, "setting": " ".join([row["eval_set"], *asked]), "checkpoint": checkpoint}
        )
    return named


Usual = Mapping[tuple[Hashable, ...], Any]
NONE_IS_USUAL = object()


def usual_values(rows: Iterable[Mapping[str, Any]], keys: Iterable[str], *, by: tuple[str, ...]) -> Usual:
    """(values of `by`, key) -> the usual value of the key, or NONE_IS_USUAL."""
    counts: dict[tuple[Hashable, ...], Counter[Any]] = {}
    keys = tuple(keys)
    for row in rows:
        group = tuple(row[name] for name in by)
        for key in keys:
            counts.setdefault((*group, key), Counter())[row.get(key)] += 1
    usual = {}
    for place, counter in counts.items():
        value, count = counter.most_common(1)[0]
        usual[place] = value if count >= USUAL_SHARE * counter.total() else NONE_IS_USUAL
    return usual


def differs(row: Mapping[str, Any], key: str, usual: Usual, by: tuple[str, ...]) -> bool:
    return row.get(key) != usual[(*(row[name] for name in by), key)]
