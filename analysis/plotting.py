"""The study's figures, from the tables of results/analysis alone.

Reads    the tables that produce_tables.py makes.
Writes   results/analysis/figures/*.png and *.pdf

    python analysis/plotting.py --axis tokens --scale log
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, cast

import pandas as pd
from matplotlib.figure import Figure

from analysis import contrasts
from analysis.drawing import draw, save
from analysis.panels import (
    Curve,
    Grid,
    Panel,
    change_panel,
    checkpoints_of,
    in_rows,
    level_panel,
    on_axis,
    style_of,
    with_90,
    wrapped,
)
from analysis.soundness import unsound_settings
from analysis.summaries import APART
from analysis.tidy import (
    DIFFERENCE_TABLE,
    IMPROVING,
    METRIC_LABELS,
    NOT_IMPROVING,
    PERFORMANCE_TABLE,
    SUITE_TABLE,
    Tables,
    base_series,
    found_checkpoints,
    groups,
    in_order,
    primary_only,
    read_tables,
    relation,
    select,
    usual,
    where,
)
from open_instruct import paths
from open_instruct.cli import run
from open_instruct.records import Artifact

BITS = "bits_per_byte"
SCORE = "accuracy or ROUGE-L"


@dataclass(frozen=True)
class Args:
    scale: Literal["index", "linear", "log"] = "index"
    """Checkpoints at even distances, by step or tokens, or by log(1 + step / smallest)."""
    axis: Literal["step", "tokens"] = "step"
    """Count pre-training in steps or in tokens."""


class Described(NamedTuple):
    """What a figure shows and the sentences below it."""

    title: str
    grid: Callable[[Tables], Grid]
    caption: str

    def make(self, tables: Tables, *, scale: str = "index", axis: str = "step") -> Figure:
        return draw(self.grid(on_axis(tables, axis)), title=self.title, scale=scale, axis=axis)


def main(args: Args) -> None:
    folder = paths.results_dir()
    inputs = {name: folder / name for name in (PERFORMANCE_TABLE, SUITE_TABLE, DIFFERENCE_TABLE)}
    with Artifact(folder / "figures", arguments=vars(args), inputs=inputs).making(is_folder=True):
        written = save_all(read_tables(folder), folder / "figures", scale=args.scale, axis=args.axis)
    print(f"wrote {len(written)} files to {folder / 'figures'}")


def save_all(tables: Tables, folder: Path, *, scale: str = "index", axis: str = "step") -> list[Path]:
    """Every figure as PNG and PDF."""
    figures = ((name, described.make(tables, scale=scale, axis=axis)) for name, described in FIGURES.items())
    return [path for name, figure in figures for path in save(figure, folder / name)]


def draw_figure(name: str, tables: Tables, *, scale: str = "index", axis: str = "step") -> Figure:
    return FIGURES[name].make(tables, scale=scale, axis=axis)


def base_models(tables: Tables) -> Grid:
    """Base models against step: what improves, what does not, instruction following apart, and bits per byte."""
    rows = []
    everything = usual(select(all_scores(tables), format="default"))
    for family in found_checkpoints(everything):
        of_base = select(everything, series=base_series(everything, family))
        scored = primary_only(of_base)
        scored = where(scored, scored["kind"] != "text")
        apart = scored["eval_set"].astype(str).str.startswith(APART)
        parts = {
            ("Improving", SCORE): where(scored, (scored["group"] == IMPROVING) & ~apart),
            ("Not improving", SCORE): where(scored, (scored["group"] == NOT_IMPROVING) & ~apart),
            ("Instruction following", "accuracy"): where(scored, apart),
            ("Bits per byte", METRIC_LABELS[BITS]): select(of_base, metric=BITS),
        }
        pairs = [pair for part in parts.values() for pair, _ in groups(part, "kind", "setting")]
        styles = style_of(task_label(setting, kind) for kind, setting in pairs)
        row = []
        for (title, label), part in parts.items():
            curves = [
                Curve(name, styles[name], in_order(group))
                for (setting, kind), group in groups(part, "setting", "kind")
                for name in (task_label(setting, kind),)
            ]
            if curves:
                row.append(Panel(title, label, curves, checkpoints_of(tables, of_base)))
        rows.append(row)
    return rows or [[Panel("Base models", "")]]


def task_label(setting: str, kind: str) -> str:
    """A suite task may share its name with an evaluation set that is asked otherwise."""
    return f"{setting} (suite)" if kind == "suite" else setting


def all_scores(tables: Tables) -> pd.DataFrame:
    return pd.concat([tables.performance, tables.suites])


def own_task(tables: Tables) -> Grid:
    """Base against fine-tuned, on the evaluation set of the train set."""
    columns = []
    performance = usual(tables.performance)
    for series, setting, family in fine_tuned_on(performance, "in-domain"):
        both = [base_series(performance, family), series]
        title = f"{setting}" if series == setting else f"{setting}\nfine-tuned on {series}"
        rows = select(performance, series=both, setting=setting, format="default")
        columns.append([level_panel(tables, title, select(rows, metric=metric)) for metric in metrics_of(rows)])
    return in_rows(columns, "Own task")


def instruction_suites(tables: Tables) -> Grid:
    """Base against instruction-tuned models: every suite task, and instruction following."""
    suites = primary_only(tables.suites)
    panels = [level_panel(tables, name, rows) for (name,), rows in groups(suites, "eval dataset")]
    tuned = set(suites.loc[suites["train_set"].notna(), "train_set"])
    asked = where(tables.performance, tables.performance["eval_set"].astype(str).str.startswith(APART))
    asked = where(asked, asked["train_set"].isna() | asked["train_set"].isin(list(tuned)))
    panels += [level_panel(tables, name, rows) for (name,), rows in groups(primary_only(asked), "eval dataset")]
    return wrapped(panels, "Suites")


def task_format(tables: Tables) -> Grid:
    """Every format, base and fine-tuned, and the spread over formats: a row for each task and metric."""
    rows = []
    performance = usual(tables.performance)
    styles = style_of(sorted(set(performance["format"])), offset=len(set(performance["series"])))
    for series, setting, family in fine_tuned_on(performance, "in-domain"):
        of_setting = select(performance, setting=setting)
        if len(set(of_setting["format"])) < 2:
            continue
        base = base_series(performance, family)
        for metric in metrics_of(of_setting):
            row = []
            for name in (base, series):
                asked = select(of_setting, series=name, metric=metric)
                if asked.empty:
                    continue
                curves = [Curve(f"format: {f}", styles[f], in_order(group)) for (f,), group in groups(asked, "format")]
                title = f"{setting}\n{'base' if name == base else f'fine-tuned on {name}'}"
                row.append(Panel(title, METRIC_LABELS[metric], curves, checkpoints_of(tables, asked)))
            spreads = select(tables.differences, comparison=contrasts.SPREAD, setting=setting, metric=metric)
            spreads = select(spreads, series=[base, series])
            if len(spreads):
                row.append(change_panel(tables, f"{setting}\nspread over formats", spreads, is_change=False))
            rows.append(row)
    return rows or [[Panel("Prompt formats", "")]]


def cross_task(tables: Tables) -> Grid:
    """Trained on A, evaluated on B: the change by fine-tuning; labels first, then generation."""
    return changes(tables, "other")


def changes(tables: Tables, wanted: str) -> Grid:
    columns = []
    chosen = fine_tuned_changes(tables, wanted)
    for (kind, setting), rows in sorted(groups(chosen, "kind", "setting"), key=lambda found: found[0][0] != "labels"):
        title = {"labels": "classification", "generation": "generation"}.get(kind, "text")
        columns.append(
            [change_panel(tables, f"{setting} ({title})", select(rows, metric=metric)) for metric in metrics_of(rows)]
        )
    return in_rows(columns, wanted)


def fine_tuned_changes(tables: Tables, wanted: str) -> pd.DataFrame:
    """Fine-tuned minus base, in the default format, where the evaluation set is `wanted` of the train set."""
    of_each = usual(select(tables.differences, comparison=contrasts.FINE_TUNED_MINUS_BASE, format="default"))
    of_each = where(of_each, of_each["kind"] != "suite")
    is_wanted = [relation(role, train_set) == wanted for role, train_set in of_each[["role", "train_set"]].to_numpy()]
    return cast(pd.DataFrame, of_each.loc[is_wanted])


def out_of_domain(tables: Tables) -> Grid:
    """The change by fine-tuning on other data of the same task, a panel a train set, with 90% intervals."""
    panels = []
    unsound = unsound_settings(tables.performance)
    chosen = fine_tuned_changes(tables, "out-of-domain")
    styles = style_of(sorted(set(chosen["setting"])), offset=1)
    for (metric, series), rows in sorted(
        groups(chosen, "metric", "series"), key=lambda found: (found[0][0] == BITS, found[0])
    ):
        curves = [
            Curve(
                f"{setting} (unsound)" if setting in unsound else setting,
                styles[setting],
                with_90(in_order(group)),
                "difference",
            )
            for (setting,), group in groups(rows, "setting")
        ]
        label = f"change of {METRIC_LABELS[metric]}"
        panels.append(Panel(f"fine-tuned on {series}", label, curves, checkpoints_of(tables, rows), is_change=True))
    return wrapped(panels, "Out of domain")


def heldout_text(tables: Tables) -> Grid:
    """Bits per byte of pre-training text, before and after fine-tuning, and the change."""
    panels = []
    for (setting,), rows in groups(select(tables.performance, role="pre-training", format="default"), "setting"):
        panels.append(level_panel(tables, f"{setting}: level", rows))
        changed = select(tables.differences, comparison=contrasts.FINE_TUNED_MINUS_BASE, setting=setting)
        if len(changed):
            panels.append(change_panel(tables, f"{setting}: change", changed))
    return wrapped(panels, "Held-out text")


def every_score(tables: Tables) -> Grid:
    """Appendix: every evaluation, format and number of shots, every series."""
    return levels_grid(tables, primary_only(where(tables.performance, tables.performance["kind"] != "text")))


def every_bits(tables: Tables) -> Grid:
    """Appendix: bits per byte of every evaluation and format, every series."""
    return levels_grid(tables, select(tables.performance, metric=BITS))


def levels_grid(tables: Tables, scores: pd.DataFrame) -> Grid:
    panels = []
    for (kind, setting, dataset), rows in groups(scores, "kind", "setting", "eval dataset"):
        shots = setting.removeprefix(str(rows["eval_set"].iloc[0]))
        panels.append((kind, level_panel(tables, f"{dataset}{shots}", rows)))
    return wrapped([panel for _, panel in sorted(panels, key=lambda found: found[0])], "Every evaluation")


FIGURES = {
    "fig2_base_models": Described(
        "Base models over pre-training",
        base_models,
        "Base models against pre-training; a task counts as improving where the 95% interval of the last checkpoint "
        "lies above that of the first. Bars are 95% intervals over items; fewer bits per byte are better.",
    ),
    "fig3_own_task": Described(
        "Fine-tuning on its own task",
        own_task,
        "Base models and models fine-tuned on the task's train set, on its evaluation set. "
        "If pre-training helps in a latent way, the two curves drift apart.",
    ),
    "fig4_suites": Described(
        "Instruction tuning",
        instruction_suites,
        "Base and instruction-tuned models on the ranked-classification suites and on instruction following. "
        "Bars are 95% intervals (Wilson's, for suites).",
    ),
    "fig5_task_format": Described(
        "Sensitivity to the prompt format",
        task_format,
        "The same items in several prompt formats, and the largest minus the smallest of them. "
        "Fine-tuning sees the default format only.",
    ),
    "fig6_cross_task": Described(
        "Trained on one task, evaluated on another: fine-tuned minus base",
        cross_task,
        "Change by fine-tuning on tasks other than the one trained on. "
        "Above zero means a higher score, or more bits per byte. Bars are 95% intervals.",
    ),
    "fig7_out_of_domain": Described(
        "Out of domain: fine-tuned minus base",
        out_of_domain,
        "Change by fine-tuning on other data of the same task, a panel for each train set. "
        "Above zero means a higher score, or more bits per byte. Bars are 90% intervals.",
    ),
    "fig8_heldout_text": Described(
        "Held-out text, before and after fine-tuning",
        heldout_text,
        "Bits per byte of held-out pre-training text, before and after fine-tuning, and their difference. "
        "Above zero is forgetting.",
    ),
    "appendix_a_scores": Described(
        "Every evaluation, format and number of shots",
        every_score,
        "The main score of every model on every evaluation set, in every format. Bars are 95% intervals.",
    ),
    "appendix_b_bits_per_byte": Described(
        "Bits per byte of every evaluation and format",
        every_bits,
        "Bits per byte of the gold completion, for every model, evaluation set and format. Bars are 95% intervals.",
    ),
}


def fine_tuned_on(performance: pd.DataFrame, wanted: str) -> list[tuple[str, str, str]]:
    """(series, setting, family) of fine-tuned models and the evaluation sets that are `wanted` of their train set."""
    columns = ["series", "setting", "family", "train_set", "role"]
    found = performance[columns].dropna().drop_duplicates()
    rows = sorted(found.itertuples(index=False, name=None))
    return [(series, setting, family) for series, setting, family, name, role in rows if relation(role, name) == wanted]


def metrics_of(rows: pd.DataFrame) -> list[str]:
    """The primary one, then bits per byte."""
    return sorted(set(rows["metric"]), key=lambda name: (name == BITS, name))


if __name__ == "__main__":
    run(main, Args)
