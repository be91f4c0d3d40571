"""Grids of panels of the study's figures, one function for each figure."""

import pandas as pd

from analysis.figures.panels import (
    Curve,
    Grid,
    Panel,
    change_panel,
    checkpoints_of,
    fine_tuned_changes,
    in_domain,
    in_rows,
    level_panel,
    metrics_of,
    series_panel,
    wrapped,
)
from analysis.figures.style import FORMAT_COLOURS, style_of
from analysis.inference.degenerate_results import constant_gold
from analysis.tables.columns import BITS, IMPROVING, INSTRUCTION_FOLLOWING, METRIC_LABELS, NOT_IMPROVING, Comparison
from analysis.tables.frames import (
    Tables,
    base_series,
    found_checkpoints,
    groups,
    in_order,
    primary_only,
    relation,
    select,
    usual,
    where,
)

SCORE = "accuracy or ROUGE-L"


def base_models(tables: Tables) -> Grid:
    """Base models over checkpoints: improving tasks, other tasks, instruction following, bits per byte."""
    rows = []
    everything = usual(select(tables.scores, format="default"))
    for family in found_checkpoints(everything):
        of_base = select(everything, series=base_series(everything, family))
        scored = primary_only(of_base)
        scored = where(scored, scored["kind"] != "text")
        follows = scored["eval_set"].astype(str).str.startswith(INSTRUCTION_FOLLOWING)
        parts = {
            ("Improving", SCORE): where(scored, (scored["group"] == IMPROVING) & ~follows),
            ("Not improving", SCORE): where(scored, (scored["group"] == NOT_IMPROVING) & ~follows),
            ("Instruction following", "accuracy"): where(scored, follows),
            ("Bits per byte", METRIC_LABELS[BITS]): select(of_base, metric=BITS),
        }
        row = []
        for (title, label), part in parts.items():
            tasks = {task_label(*names): of_task for names, of_task in groups(part, "setting", "kind")}
            styles = style_of(tasks)
            curves = [Curve(name, styles[name], in_order(of_task)) for name, of_task in tasks.items()]
            if curves:
                row.append(Panel(title, label, curves, checkpoints_of(tables, of_base), own_legend=True))
        if row:
            rows.append(row)
    return rows or [[Panel("Base models", "")]]


def task_label(setting: str, kind: str) -> str:
    """A suite task may share its name with an evaluation set that is evaluated in another way."""
    return f"{setting} (suite)" if kind == "suite" else setting


def own_task(tables: Tables) -> Grid:
    """Base and fine-tuned models on the evaluation set of the train set."""
    columns = []
    performance = usual(tables.performance)
    for series, setting, family in in_domain(performance):
        both = [base_series(performance, family), series]
        title = setting if series == setting else f"{setting}\nfine-tuned on {series}"
        rows = select(performance, series=both, setting=setting, format="default")
        columns.append([level_panel(tables, title, select(rows, metric=metric)) for metric in metrics_of(rows)])
    return in_rows(columns, "In-domain")


def instruction_suites(tables: Tables) -> Grid:
    """Base and instruction-tuned models: every suite task, and instruction following."""
    suites = primary_only(tables.suites)
    tuned = set(suites.loc[suites["train_set"].notna(), "train_set"])
    follows = tables.performance["eval_set"].astype(str).str.startswith(INSTRUCTION_FOLLOWING)
    of_models = tables.performance["train_set"].isna() | tables.performance["train_set"].isin(list(tuned))
    instructions = primary_only(where(tables.performance, follows & of_models))
    panels = [
        level_panel(tables, evaluation_title(dataset, setting, rows), rows)
        for part in (suites, instructions)
        for (dataset, setting), rows in groups(part, "eval dataset", "setting")
    ]
    return wrapped(panels, "Suites")


def task_format(tables: Tables) -> Grid:
    """Every format, base and fine-tuned, and the variance between formats: a row for each task and metric."""
    rows = []
    performance = usual(tables.performance)
    styles = style_of(sorted(set(performance["format"])), colours=FORMAT_COLOURS)
    for series, setting, family in in_domain(performance):
        of_setting = select(performance, setting=setting)
        if len(set(of_setting["format"])) < 2:
            continue
        base = base_series(performance, family)
        for metric in metrics_of(of_setting):
            row = []
            for name in (base, series):
                measured = select(of_setting, series=name, metric=metric)
                if measured.empty:
                    continue
                by_format = groups(measured, "format")
                curves = [Curve(f"format: {name}", styles[name], in_order(group)) for (name,), group in by_format]
                title = f"{setting}\n{'base' if name == base else f'fine-tuned on {name}'}"
                row.append(Panel(title, METRIC_LABELS[metric], curves, checkpoints_of(tables, measured)))
            both = {"series": [base, series], "setting": setting, "metric": metric}
            spreads = select(tables.differences, comparison=Comparison.FORMATS, **both)
            if len(spreads):
                label = f"variance of {METRIC_LABELS[metric]}, less noise"
                title = f"{setting}\nvariance between formats"
                row.append(series_panel(tables, title, spreads, label, value="difference"))
            rows.append(row)
    return rows or [[Panel("Prompt formats", "")]]


def cross_task(tables: Tables) -> Grid:
    """Trained on A, evaluated on B: the change by fine-tuning; classification first, then generation."""
    columns = []
    chosen = fine_tuned_changes(tables, "other")
    for (kind, setting), rows in sorted(groups(chosen, "kind", "setting"), key=lambda found: found[0][0] != "labels"):
        task = {"labels": "classification", "generation": "generation"}.get(kind, "text")
        of_metrics = [select(rows, metric=metric) for metric in metrics_of(rows)]
        columns.append([change_panel(tables, f"{setting}\n({task})", of_metric) for of_metric in of_metrics])
    return in_rows(columns, "Cross-task")


def out_of_domain(tables: Tables) -> Grid:
    """The change by fine-tuning on other data of the same task: a panel for each train set."""
    panels = []
    degenerate = constant_gold(tables.performance)
    by_series = groups(fine_tuned_changes(tables, "out-of-domain"), "metric", "series")
    for (metric, series), rows in sorted(by_series, key=lambda found: (found[0][0] == BITS, found[0])):
        curves = []
        styles = style_of(sorted(set(rows["setting"])))
        for (setting,), group in groups(rows, "setting"):
            label = f"{setting} (degenerate)" if setting in degenerate else setting
            curves.append(Curve(label, styles[setting], in_order(group), "difference"))
        label, checkpoints = f"change of {METRIC_LABELS[metric]}", checkpoints_of(tables, rows)
        panels.append(Panel(f"fine-tuned on {series}", label, curves, checkpoints, is_change=True, own_legend=True))
    return wrapped(panels, "Out of domain")


def heldout_text(tables: Tables) -> Grid:
    """Bits per byte of pre-training text before and after fine-tuning, and the change."""
    panels = []
    is_pretraining_text = [relation(role, "") == "pre-training" for role in tables.performance["role"]]
    texts = select(where(tables.performance, is_pretraining_text), format="default")
    for (setting,), rows in groups(texts, "setting"):
        panels.append(level_panel(tables, f"{setting}: level", rows))
        changed = select(tables.differences, comparison=Comparison.CHANGE, setting=setting)
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
        panels.append((kind, level_panel(tables, evaluation_title(dataset, setting, rows), rows)))
    return wrapped([panel for _, panel in sorted(panels, key=lambda found: found[0])], "Every evaluation")


def evaluation_title(dataset: str, setting: str, rows: pd.DataFrame) -> str:
    """The evaluation set with its format, and what the setting says beside the set: shots, items, conditions."""
    return dataset + setting.removeprefix(str(rows["eval_set"].iloc[0]))
