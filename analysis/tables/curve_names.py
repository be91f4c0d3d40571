"""Names of series and settings.

A series is one curve over checkpoints: a family's base models, or the models fine-tuned by one recipe, of all
pre-training runs and fine-tuning seeds (replicates.py tells these apart). A setting is an evaluation set, with number
of shots and protocol where a table has several. A name states only what differs from the usual value, which is the
value of at least nine rows in ten.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from open_instruct.checkpoints.families import step_name

USUAL_SHARE = 0.9
CONDITIONS = {"shots": "{} shots", "protocol": "{} protocol", "limit": "{} items", "conditions": "{}"}
"""Column -> part of a setting's name."""
OF_SET = ("eval_set", "kind")
"""A suite task may have the name of an evaluation set."""
DEFAULTS = {"limit": "all", "rows": "all"}
"""Column -> what None means there; `default` elsewhere."""
RECIPE = ("lr", "epochs", "rows", "batch_size", "adapter", "settings", "conversion")
Usual = Mapping[tuple[Hashable, ...], Any]
NONE_IS_USUAL = object()


def name_series(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add `series`, `setting` and `checkpoint` to rows with the identity of a model and of its evaluation."""
    several_families = len({row["family"] for row in rows}) > 1
    conditions = usual_values(rows, ("shots", "protocol"), by=("kind",))
    conditions |= usual_values(rows, ("limit", "conditions"), by=OF_SET)
    recipes = usual_values(rows, RECIPE, by=("family", "train_set"))
    named = []
    for row in rows:
        varied = [key for key in RECIPE if differs(row, key, recipes, ("family", "train_set"))]
        details = [f"{key}={DEFAULTS.get(key, 'default') if row.get(key) is None else row[key]}" for key in varied]
        prefix = [row["family"]] if several_families else []
        # A folder without sidecar belongs to no curve: it is a series of its own, named by its model id.
        series = " ".join([*prefix, row["train_set"] or "base", *details]) if row["family"] else row["model_id"]
        conditions_of_row = [
            part.format(DEFAULTS.get(key, "default") if row.get(key) is None else row[key])
            for key, part in CONDITIONS.items()
            if differs(row, key, conditions, ("kind",) if key in ("shots", "protocol") else OF_SET)
        ]
        setting = " ".join([row["eval_set"], *conditions_of_row])
        named.append({**row, "series": series, "setting": setting, "checkpoint": step_name(row["step"])})
    return named


def usual_values(
    rows: Sequence[Mapping[str, Any]], keys: Sequence[str], *, by: tuple[str, ...]
) -> dict[tuple[Hashable, ...], Any]:
    """(values of `by`, key) -> the usual value of the key, or NONE_IS_USUAL."""
    counts: defaultdict[tuple[Hashable, ...], Counter[Any]] = defaultdict(Counter)
    for row in rows:
        group = tuple(row[name] for name in by)
        for key in keys:
            counts[(*group, key)][row.get(key)] += 1
    usual = {}
    for group, counter in counts.items():
        value, count = counter.most_common(1)[0]
        usual[group] = value if count >= USUAL_SHARE * counter.total() else NONE_IS_USUAL
    return usual


def differs(row: Mapping[str, Any], key: str, usual: Usual, by: tuple[str, ...]) -> bool:
    return row.get(key) != usual[(*(row[name] for name in by), key)]
