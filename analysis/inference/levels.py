"""The score of every series at every checkpoint, over its replicates: levels.csv."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from analysis.inference.comparisons import Plan, by_evaluation, degenerate_of, levels_of
from analysis.inference.contrasts import Contrast
from analysis.inference.estimates import estimate_with_items, estimate_without_items
from analysis.inference.item_values import ItemValues
from analysis.tables.gathering import key_of
from analysis.tables.replicates import replicates_of

Row = dict[str, Any]
OF_ONE = ("std", "ci_low", "ci_high", "n")
"""Of a single model, as they were measured."""


def pooled_levels(rows: Sequence[Row], cells: Mapping[tuple[str, str], ItemValues], plan: Plan) -> Iterator[Row]:
    """A row for each series, checkpoint and evaluation whose replicates are all there."""
    replicates = replicates_of(rows, plan.runs)
    for (setting, metric, _), group in by_evaluation(rows).items():
        models = {key_of(row): row for row in group}
        contrasts = [Contrast("", *key[:2], "", {key: 1.0}, replicates=replicates[key[0]][1]) for key in models]
        items = cells.get((setting, metric))
        if items is not None:
            results = estimate_with_items(contrasts, items, metric)
        else:
            results = estimate_without_items(contrasts, levels_of(group), metric, degenerate_of(group))
        for row, result in zip(models.values(), results, strict=True):
            if "difference" not in result:
                continue
            unit, names = replicates[row["series"]]
            level = row | {"Performance": result["difference"], "unit": unit} | result
            level["degenerate"] = result.get("missing")
            if len(names) == 1:
                level |= {name: row[name] for name in (*OF_ONE, "Performance")}
            yield level
