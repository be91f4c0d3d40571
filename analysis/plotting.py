"""The study's figures, from the tables of results/analysis alone.

Reads    the tables that produce_tables.py makes.
Writes   results/analysis/figures/*.png and *.pdf

    python analysis/plotting.py --scale log
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, cast

import pandas as pd
from matplotlib.figure import Figure

from analysis import contrasts
from analysis.contrasts import found_checkpoints
from analysis.panels import BASE_COLOUR, Curve, Panel, Style, draw, save, style_of
from analysis.tidy import (
    DIFFERENCE_TABLE,
    LOWER_IS_BETTER,
    METRIC_LABELS,
    PERFORMANCE_TABLE,
    SUITE_TABLE,
    Tables,
    base_series,
    groups,
    in_order,
    primary_metric,
    read_tables,
    relation,
    select,
)
from open_instruct import paths
from open_instruct.cli import run
from open_instruct.records import Artifact

MOST_COLUMNS = 5


@dataclass(frozen=True)
class Args:
    scale: Literal["index", "linear", "log"] = "index"
    """Step axis: checkpoints at even distances, by step, or by log(1 + step / smallest)."""


class Described(NamedTuple):
    """A figure's function and the two sentences below it."""

    make: Callable[..., Figure]
    caption: str


def main(args: Args) -> None:
    folder = paths.results_dir()
    inputs = {name: folder / name for name in (PERFORMANCE_TABLE, SUITE_TABLE, DIFFERENCE_TABLE)}
    with Artifact(folder / "figures", arguments={"scale": args.scale}, inputs=inputs).making(is_folder=True):
        written = save_all(read_tables(folder), folder / "figures", scale=args.scale)
    print(f"wrote {len(written)} files to {folder / 'figures'}")


def save_all(tables: Tables, folder: Path, *, scale: str = "index") -> list[Path]:
    """Every figure as PNG and PDF."""
    return [path for name, made in FIGURES.items() for path in save(made.make(tables, scale=scale), folder / name)]


def base_models(tables: Tables, *, scale: str = "index") -> Figure:
    """Base models against step: what improves, what does not, and bits per byte."""
    scored = pd.concat([select(tables.performance, format="default"), tables.suites])
    rows = []
    for family, checkpoints in found_checkpoints(scored).items():
        of_base = select(scored, series=base_series(scored, family))
        names = {(name, kind): task_label(name, kind) for (name, kind), _ in groups(of_base, "eval dataset", "kind")}
        styles = style_of(names.values())
        scores, bits = [], []
        for (name, kind), label in names.items():
            rows_of_task = in_order(select(of_base, **{"eval dataset": name, "kind": kind}))
            if kind != "text":
                scores.append(Curve(label, styles[label], select(rows_of_task, metric=primary_metric(kind))))
            if kind != "suite":
                bits.append(Curve(label, styles[label], select(rows_of_task, metric="bits_per_byte")))
        improving = [curve for curve in scores if improves(curve.rows)]
        others = [curve for curve in scores if not improves(curve.rows)]
        score = "accuracy or ROUGE-L"
        rows.append(
            [
                Panel("Improving", score, improving, checkpoints),
                Panel("Not improving", score, others, checkpoints),
                Panel("Bits per byte", "bits per byte", bits, checkpoints),
            ]
        )
    return draw(rows or [[Panel("Base models", "")]], title="Base models over pre-training", scale=scale)


def task_label(name: str, kind: str) -> str:
    """A suite task may share its name with an evaluation set that is asked otherwise."""
    return f"{name} (suite)" if kind == "suite" else name


def improves(rows: pd.DataFrame) -> bool:
    """Whether the last checkpoint's interval lies above the first's."""
    return bool(rows["ci_low"].iloc[-1] > rows["ci_high"].iloc[0])


def own_task(tables: Tables, *, scale: str = "index") -> Figure:
    """Base against fine-tuned, on the evaluation set of the train set."""
    columns = []
    for series, setting, family in fine_tuned_on(tables.performance, "in-domain"):
        where = {"setting": setting, "format": "default"}
        both = [base_series(tables.performance, family), series]
        metrics = metrics_of(tables.performance, setting)
        title = f"{setting}" if series == setting else f"{setting}\nfine-tuned on {series}"
        columns.append([level_panel(tables, title, both, metric, **where) for metric in metrics])
    return draw(in_rows(columns, "Own task"), title="Fine-tuning on its own task", scale=scale)


def instruction_suites(tables: Tables, *, scale: str = "index") -> Figure:
    """Base against instruction-tuned models, on every suite task."""
    scored = select(tables.suites, metric=primary_metric("suite"))
    panels = []
    styles = styles_of(tables)
    for (setting,), rows in groups(scored, "setting"):
        found = [(name, in_order(select(rows, series=name))) for name in sorted(set(scored["series"]))]
        curves = [Curve(label_of(tables, name), styles[name], group) for name, group in found]
        checkpoints = [c for found in found_checkpoints(scored).values() for c in found]
        panels.append(Panel(setting, "accuracy", curves, checkpoints))
    return draw(wrapped(panels, "Suites"), title="Ranked-classification suites", scale=scale)


def task_format(tables: Tables, *, scale: str = "index") -> Figure:
    """Every format, base and fine-tuned, and the spread over formats."""
    columns = []
    formats = sorted(set(tables.performance["format"]))
    styles = style_of(formats, offset=len(set(tables.performance["series"])))
    for series, setting, family in fine_tuned_on(tables.performance, "in-domain"):
        base = base_series(tables.performance, family)
        if len(set(select(tables.performance, setting=setting)["format"])) < 2:
            continue
        metrics = metrics_of(tables.performance, setting)
        for name in (base, series):
            column = []
            for metric in metrics:
                rows = select(tables.performance, setting=setting, series=name, metric=metric)
                curves = [Curve(f"format: {f}", styles[f], in_order(group)) for (f,), group in groups(rows, "format")]
                title = f"{setting}\n{'base' if name == base else f'fine-tuned on {name}'}"
                column.append(Panel(title, METRIC_LABELS[metric], curves, all_checkpoints(tables, family)))
            columns.append(column)
        spreads = select(tables.differences, comparison=contrasts.SPREAD, setting=setting, series=[base, series])
        columns.append([change_panel(tables, f"{setting}\nspread over formats", spreads, m) for m in metrics])
    return draw(in_rows(columns, "Prompt formats"), title="Sensitivity to the prompt format", scale=scale)


def cross_task(tables: Tables, *, scale: str = "index") -> Figure:
    """Trained on A, evaluated on B: the change by fine-tuning."""
    return changes(tables, "other", title="Trained on one task, evaluated on another", scale=scale)


def out_of_domain(tables: Tables, *, scale: str = "index") -> Figure:
    """The change by fine-tuning on other data of the same task."""
    return changes(tables, "out-of-domain", title="Out of domain", scale=scale)


def changes(tables: Tables, wanted: str, *, title: str, scale: str) -> Figure:
    columns = []
    of_each = select(tables.differences, comparison=contrasts.FINE_TUNED_MINUS_BASE, format="default")
    is_wanted = [relation(role, train_set) == wanted for role, train_set in of_each[["role", "train_set"]].to_numpy()]
    chosen = cast(pd.DataFrame, of_each.loc[is_wanted])
    for (setting,), rows in groups(chosen, "setting"):
        metrics = metrics_of(tables.performance, setting)
        columns.append([change_panel(tables, setting, rows, metric, is_change=True) for metric in metrics])
    return draw(in_rows(columns, title), title=f"{title}: fine-tuned minus base", scale=scale)


def heldout_text(tables: Tables, *, scale: str = "index") -> Figure:
    """Bits per byte of pre-training text, before and after fine-tuning, and the change."""
    panels = []
    for (setting,), rows in groups(select(tables.performance, role="pre-training"), "setting"):
        series = sorted(set(rows["series"]))
        where = {"setting": setting, "format": "default"}
        panels.append(level_panel(tables, f"{setting}: level", series, "bits_per_byte", **where))
        changed = select(tables.differences, comparison=contrasts.FINE_TUNED_MINUS_BASE, setting=setting)
        panels.append(change_panel(tables, f"{setting}: change", changed, "bits_per_byte", is_change=True))
    return draw(wrapped(panels, "Held-out text"), title="Held-out text, before and after fine-tuning", scale=scale)


FIGURES = {
    "fig2_base_models": Described(
        base_models,
        "Base models against pre-training step; a task counts as improving where the 95% interval of the last "
        "checkpoint lies above that of the first. Bars are 95% intervals over items; fewer bits per byte are better.",
    ),
    "fig3_own_task": Described(
        own_task,
        "Base models and models fine-tuned on the task's train set, on its evaluation set. "
        "If pre-training helps in a latent way, the two curves drift apart.",
    ),
    "fig4_suites": Described(
        instruction_suites,
        "Base and instruction-tuned models on the ranked-classification suites. Bars are 95% Wilson intervals.",
    ),
    "fig5_task_format": Described(
        task_format,
        "The same items in three prompt formats, and the largest minus the smallest of the three. "
        "Fine-tuning sees the default format only.",
    ),
    "fig6_cross_task": Described(
        cross_task,
        "Change by fine-tuning on tasks other than the one trained on, on the same items. "
        "Above zero means a higher score, or more bits per byte.",
    ),
    "fig7_out_of_domain": Described(
        out_of_domain,
        "Change by fine-tuning on other data of the same task, on the same items. "
        "Above zero means a higher score, or more bits per byte.",
    ),
    "fig8_heldout_text": Described(
        heldout_text,
        "Bits per byte of held-out pre-training text, before and after fine-tuning, and their difference. "
        "Above zero is forgetting.",
    ),
}


def fine_tuned_on(performance: pd.DataFrame, wanted: str) -> Iterator[tuple[str, str, str]]:
    """(series, setting, family) of fine-tuned models and the evaluation sets that are `wanted` of their train set."""
    for (series, setting, family, train_set, role), _ in groups(
        performance, "series", "setting", "family", "train_set", "role"
    ):
        if relation(role, train_set) == wanted:
            yield series, setting, family


def metrics_of(performance: pd.DataFrame, setting: str) -> list[str]:
    """Of a setting: the primary one, then bits per byte."""
    return sorted(set(select(performance, setting=setting)["metric"]), key=lambda name: (name == "bits_per_byte", name))


def level_panel(
    tables: Tables, title: str, series: Sequence[str | None], metric: str, *, setting: str, format: str
) -> Panel:
    styles = styles_of(tables)
    curves = []
    for name in (name for name in series if name is not None):
        rows = select(tables.performance, series=name, metric=metric, setting=setting, format=format)
        curves.append(Curve(label_of(tables, name), styles[name], in_order(rows)))
    families = set(select(tables.performance, series=list(series))["family"])
    checkpoints = [c for family in families for c in all_checkpoints(tables, family)]
    return Panel(title, METRIC_LABELS[metric], curves, checkpoints)


def change_panel(
    tables: Tables, title: str, differences: pd.DataFrame, metric: str, *, is_change: bool = False
) -> Panel:
    styles = styles_of(tables)
    rows = select(differences, metric=metric)
    found = groups(rows, "series")
    curves = [
        Curve(label_of(tables, series), styles[series], in_order(group), value="difference")
        for (series,), group in found
    ]
    better = "lower is better" if metric in LOWER_IS_BETTER else "higher is better"
    y_label = f"change of {METRIC_LABELS[metric]}\n({better})" if is_change else f"spread of {METRIC_LABELS[metric]}"
    return Panel(title, y_label, curves, is_change=is_change)


def styles_of(tables: Tables) -> dict[str, Style]:
    """One style a series, through all figures."""
    both = pd.concat([tables.performance, tables.suites])
    bases = {str(name) for name in both.loc[both["train_set"].isna(), "series"]}
    return style_of((str(name) for name in both["series"]), bases)


def label_of(tables: Tables, series: str) -> str:
    return series if styles_of(tables)[series].colour == BASE_COLOUR else f"fine-tuned: {series}"


def all_checkpoints(tables: Tables, family: str) -> list[str]:
    return found_checkpoints(tables.performance).get(family, [])


def in_rows(columns: Sequence[Sequence[Panel]], empty: str) -> list[list[Panel]]:
    """Columns of (primary metric, bits per byte) as rows of at most MOST_COLUMNS panels."""
    depth = max((len(column) for column in columns), default=0)
    rows = []
    # Six columns stand as three and three, not as five and one.
    width = math.ceil(len(columns) / max(1, math.ceil(len(columns) / MOST_COLUMNS)))
    for start in range(0, len(columns), max(1, width)):
        block = columns[start : start + width]
        rows += [[column[i] for column in block if i < len(column)] for i in range(depth)]
    return rows or [[Panel(empty, "")]]


def wrapped(panels: Sequence[Panel], empty: str) -> list[list[Panel]]:
    return in_rows([[panel] for panel in panels], empty)


if __name__ == "__main__":
    run(main, Args)
