"""The study's figures, from the tables of results/analysis alone.

Reads    the tables that produce_tables.py makes.
Writes   results/analysis/figures/*.png and *.pdf

    python analysis/plotting.py --axis tokens --scale log
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.drawing import draw, save
from analysis.figures.panels import (
    BITS,
    FORMAT_COLOURS,
    Curve,
    Grid,
    Panel,
    all_scores,
    change_panel,
    checkpoints_of,
    fine_tuned_changes,
    fine_tuned_on,
    in_rows,
    level_panel,
    metrics_of,
    on_axis,
    style_of,
    with_90,
    wrapped,
)
from analysis.figures.weight_figures import (
    DISTANCE,
    NOISE,
    noise_on_weights,
    weight_distance,
)
from analysis.inference import contrasts
from analysis.inference.degenerate_results import unsound_settings
from analysis.tables.frames import (
    IMPROVING,
    METRIC_LABELS,
    NOT_IMPROVING,
    Tables,
    base_series,
    found_checkpoints,
    groups,
    in_order,
    primary_only,
    read_tables,
    select,
    table_files,
    usual,
    where,
)
from analysis.tables.summaries import APART
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.cli import run

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
    needs: str = ""
    """Table without which there is no such figure, since few studies measure it."""

    def is_made(self, tables: Tables) -> bool:
        return not self.needs or len(getattr(tables, self.needs)) > 0

    def make(self, tables: Tables, *, scale: str = "index", axis: str = "step") -> Figure:
        return draw(self.grid(on_axis(tables, axis)), title=self.title, scale=scale, axis=axis)


def main(args: Args) -> None:
    folder = paths.results_dir()
    tables, inputs = read_tables(folder), table_files(folder)
    with Artifact(folder / "figures", arguments=vars(args), inputs=inputs).making(is_folder=True):
        written = save_all(tables, folder / "figures", scale=args.scale, axis=args.axis)
    print(f"wrote {len(written)} files to {folder / 'figures'}")


def save_all(tables: Tables, folder: Path, *, scale: str = "index", axis: str = "step") -> list[Path]:
    """Every figure as PNG and PDF."""
    figures = ((name, described.make(tables, scale=scale, axis=axis)) for name, described in figures_of(tables))
    return [path for name, figure in figures for path in save(figure, folder / name)]


def figures_of(tables: Tables) -> list[tuple[str, Described]]:
    """Every figure that these tables are asked for."""
    return [(name, described) for name, described in FIGURES.items() if described.is_made(tables)]


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
        row = []
        for (title, label), part in parts.items():
            of_tasks = list(groups(part, "setting", "kind"))
            styles = style_of(task_label(*pair) for pair, _ in of_tasks)
            names = [task_label(*pair) for pair, _ in of_tasks]
            curves = [Curve(name, styles[name], in_order(of_tasks[i][1])) for i, name in enumerate(names)]
            if curves:
                row.append(Panel(title, label, curves, checkpoints_of(tables, of_base), own_legend=True))
        rows.append(row)
    return rows or [[Panel("Base models", "")]]


def task_label(setting: str, kind: str) -> str:
    """A suite task may share its name with an evaluation set that is asked otherwise."""
    return f"{setting} (suite)" if kind == "suite" else setting


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
    styles = style_of(sorted(set(performance["format"])), colours=FORMAT_COLOURS)
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
            [change_panel(tables, f"{setting}\n({title})", select(rows, metric=metric)) for metric in metrics_of(rows)]
        )
    return in_rows(columns, wanted)


def out_of_domain(tables: Tables) -> Grid:
    """The change by fine-tuning on other data of the same task, a panel a train set, with 90% intervals."""
    panels = []
    unsound = unsound_settings(tables.performance)
    chosen = fine_tuned_changes(tables, "out-of-domain")
    for (metric, series), rows in sorted(
        groups(chosen, "metric", "series"), key=lambda found: (found[0][0] == BITS, found[0])
    ):
        styles = style_of(sorted(set(rows["setting"])))
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
        checkpoints = checkpoints_of(tables, rows)
        panels.append(Panel(f"fine-tuned on {series}", label, curves, checkpoints, is_change=True, own_legend=True))
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
    NOISE: Described(
        "Noise on the weights",
        noise_on_weights,
        "What Gaussian noise on every weight costs, by its size in parts of each tensor's root mean square. "
        "Bars are 95% intervals over draws of the noise.",
        needs="noise",
    ),
    DISTANCE: Described(
        "Distance moved by fine-tuning, and what it gained",
        weight_distance,
        "Norm of the change of each layer, in parts of its norm before. Below, the change on the task against it, a "
        "point for each checkpoint. Bars are 95% intervals over items.",
        needs="distances",
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


if __name__ == "__main__":
    run(main, Args)
