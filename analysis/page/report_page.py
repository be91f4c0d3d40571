"""Build the report page: setup, findings, figures, missing and degenerate results, the paper, tables."""

import html
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd
from plotly.offline import get_plotlyjs

from analysis.figures.interactive import interactive_figures, labels_of
from analysis.figures.panels import Grid
from analysis.figures.study_figures import FIGURES, caption_of
from analysis.figures.token_axis import on_axis
from analysis.inference.degenerate_results import degenerate_results
from analysis.inference.finding import Finding
from analysis.inference.findings import DESCRIBED, LEVEL, QUESTIONS, VERDICTS
from analysis.inference.power import POWER
from analysis.page.html_tables import joined, table
from analysis.tables.columns import FILES, OPTIONAL
from analysis.tables.frames import Tables, groups, order_checkpoints, read_table, where
from analysis.tables.replicates import FEWEST_REPLICATES, FIRST_RUN
from open_instruct.checkpoints.families import curve_family
from open_instruct.common.provenance import git_commit, package_version
from open_instruct.study.config import Study

TEMPLATE = Path(__file__).with_name("report.html.template")
SCRIPT = Path(__file__).with_name("report.js")
PACKAGES = ("torch", "transformers", "ai2-olmo", "numpy", "scipy", "pandas", "matplotlib")
LEVEL_COLUMNS = ("series", "checkpoint", "eval dataset", "metric", "Performance", "ci_low", "ci_high")
LEVEL_COLUMNS += ("next_low", "next_high", "item_error", "replicate_sd", "replicates", "unit", "n", "kind")
NOISE_COLUMNS = ("series", "checkpoint", "setting", "size", "draws", "bits_per_byte", "difference", "ci_low", "ci_high")
DISTANCE_COLUMNS = ("series", "checkpoint", "layer", "weights", "distance", "base_norm", "relative", "source")
RANK_COLUMNS = ("series", "checkpoint", "layer", "kind", "full_rank", "rank", "effective_rank", "stable_rank", "source")
INTERPOLATION_COLUMNS = ("series", "checkpoint", "setting", "alpha", "bits_per_byte", "difference", "barrier", "source")
DIFFERENCE_COLUMNS = ("comparison", "series", "reference", "checkpoint", "eval dataset", "metric")
DIFFERENCE_COLUMNS += ("difference", "ci_low", "ci_high", "p_value", "next_low", "next_high")
DIFFERENCE_COLUMNS += ("replicates", "unit", "n", "note", "missing")
PAPER_COLUMNS = ("own_series", "checkpoint", "eval dataset", "metric", "shots", "own", "published", "difference")
PAPER_COLUMNS += ("ci_low", "ci_high", "verdict", "note", "own_source", "published_source")
VARIATION_COLUMNS = ("series", "setting", "format", "metric", "unit", "replicates", "item_error", "seed_sd", "run_sd")
VARIATION_COLUMNS += ("checkpoint_sd", "signal", "signal_to_noise", "gain_replicate_sd", "gain_next_half_width")
VARIATION_COLUMNS += ("smallest_gain",)
SHOWN: dict[str, tuple[str, tuple[str, ...]]] = {
    "groups": ("Mean change by fine-tuning, for tasks that improve with pre-training and others", ()),
    "paper_means": ("Mean change by fine-tuning over the paper's pairs of train and evaluation set", ()),
    "changes": ("Mean change by fine-tuning", ()),
    "levels": ("Scores, over pre-training runs or fine-tuning seeds", LEVEL_COLUMNS),
    "noise": ("Weight noise", (*NOISE_COLUMNS, "source")),
    "distances": ("Weight change by fine-tuning, by layer", DISTANCE_COLUMNS),
    "ranks": ("Rank of the weight change, by matrix", RANK_COLUMNS),
    "interpolation": ("Loss between base and fine-tuned weights", INTERPOLATION_COLUMNS),
    "differences": ("Differences between models on the same items", DIFFERENCE_COLUMNS),
}
"""Field of Tables -> heading and columns (none: all)."""


def shown_tables(tables: Tables) -> list[str]:
    """Keys of SHOWN, without the optional tables that have no rows."""
    return [name for name in SHOWN if name not in OPTIONAL or len(getattr(tables, name))]


def build_page(
    tables: Tables,
    findings: Sequence[Finding],
    grids: Mapping[str, Grid],
    study: Study | None = None,
    paper: Path | None = None,
) -> str:
    """The page as HTML without references to other servers.

    grids  of the tables on the axis that on_axis() chooses
    paper  output folder of compare_paper.py
    """
    shown, axis = on_axis(tables)
    figures = interactive_figures(grids, shown)
    # Inside a script element only "</" and "<!--" end or change it.
    data = json.dumps({"figures": figures, "labels": labels_of(figures), "unit": axis}, allow_nan=False).replace(
        "<", "\\u003c"
    )
    content = [
        *setup_section(tables, study),
        *findings_section(findings),
        *noise_section(tables),
        *figures_section(grids, axis),
        *missing_section(tables.missing, study),
        *degenerate_section(tables),
        *(paper_section(paper) if paper else []),
        "<h2>Tables</h2>",
        *tables_of_models(tables),
    ]
    for name in shown_tables(tables):
        heading, columns = SHOWN[name]
        content += [f"<h3>{heading}</h3>", table(getattr(tables, name), columns, file=FILES[name])]
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title="What does pre-training give to fine-tuning?",
        content="\n".join(content),
        data=data,
        plotly=get_plotlyjs().replace("</script", "<\\/script"),
        script=SCRIPT.read_text(encoding="utf-8"),
    )


def tables_of_models(tables: Tables) -> list[str]:
    """What the columns of intervals are, and links to the tables of single models, which are not on the page."""
    files = [FILES[name] for name in ("performance", "suites") if len(getattr(tables, name))]
    links = " and ".join(f"<a href='{file}'>{file}</a>" for file in files)
    about = (
        "ci_low to ci_high is the 95% interval over replicates (the column unit says which: pre-training runs or "
        "fine-tuning seeds) and items, with one replicate over items only; next_low to next_high is the 95% prediction "
        "interval of one further replicate."
    )
    return [f"<p>{about}{f' The scores of single models, with their sources, are in {links}.' if files else ''}</p>"]


def setup_section(tables: Tables, study: Study | None) -> list[str]:
    scores, suites = tables.scores, tables.suites
    checkpoints = ", ".join(order_checkpoints(scores["checkpoint"]))
    items = tables.performance.groupby("eval dataset")["n"].agg(["min", "max"])
    sizes = [f"{name}{num_items(low, high)}" for name, low, high in items.itertuples()]
    facts = {
        "Models": f"{scores['model_id'].nunique()}: {joined(scores['series'])} at checkpoints {checkpoints}",
        "Replicates": replicates_text(tables.levels),
        "Evaluation sets": ", ".join(sizes) or "none",
        "Suite tasks": joined(suites["eval dataset"]) or "none",
        "Versions": ", ".join(f"{name} {package_version(name)}" for name in PACKAGES),
        "Commit of the analysis": git_commit() or "unknown",
    }
    if study:
        facts = study_facts(study) | facts
    rows = [
        f"<tr><th>{html.escape(key)}</th><td style='white-space:normal'>{html.escape(value)}</td></tr>"
        for key, value in facts.items()
    ]
    return ["<h2>Setup</h2>", f"<table>{''.join(rows)}</table>"]


def replicates_text(levels: pd.DataFrame) -> str:
    """How many pre-training runs or fine-tuning seeds each series has."""
    series: dict[str, list[str]] = {}
    for (name,), rows in groups(levels, "series"):
        count, unit = int(rows["replicates"].max()), rows["unit"].iloc[0]
        series.setdefault(f"{count} {unit}s" if count > 1 else "one model at each checkpoint", []).append(name)
    return "; ".join(f"{what} ({', '.join(names)})" for what, names in series.items()) or "none"


def study_facts(study: Study) -> dict[str, str]:
    """Families, runs and seeds, and the recipes."""
    runs: dict[str, list[str]] = {}
    for checkpoint in study.checkpoints():
        family = curve_family(checkpoint.family, checkpoint.stage)
        runs.setdefault(family, []).append(checkpoint.run or FIRST_RUN)
    families = "; ".join(f"{family} (pre-training runs: {joined(names)})" for family, names in runs.items())
    shots = joined(dict.fromkeys(one.num_shots for one in study.evaluations()))
    facts = {"Study": f"{study.name}, {families}, {shots} shots"}
    recipes = [
        f"{name} ({joined(r.epochs)} epochs, lr {joined(f'{lr:g}' for lr in r.lr)}, batch {joined(r.batch_size)}, "
        f"seeds {joined(r.seeds or (study.seed,))})"
        for name, r in study.train_sets.items()
    ]
    facts["Fine-tuned on"] = ", ".join(recipes) or "nothing: base models only"
    if recipes:
        compared = [name for name, recipe in study.train_sets.items() if len(recipe.lr) > 1]
        facts["Learning rate"] = "the same for all checkpoints" + (
            f"; several, each a series of its own, for {', '.join(compared)}" if compared else ""
        )
    return facts


def num_items(low: Any, high: Any) -> str:
    """Size of an evaluation set; unknown for published tables."""
    return "" if pd.isna(low) else f" ({low} items)" if low == high else f" ({low} to {high} items)"


def findings_section(findings: Sequence[Finding]) -> list[str]:
    """The primary claim, then a line for each question with its verdicts; sentences are folded where they are many."""
    parts = [
        "<h2>Findings</h2>",
        f"<p>A claim is judged where it was seen in at least {FEWEST_REPLICATES} pre-training runs, or fine-tuning "
        "seeds of one run: its interval and test then cover the next run (or seed) and other items. With fewer it is "
        "described; the interval of a single run covers other items only. The primary claim is tested at "
        f"{LEVEL:.0%}; of all other verdicts together at most {LEVEL:.0%} are expected to be false.</p>",
    ]
    parts += [f"<p>Primary claim. {coloured(finding)}</p>" for finding in findings if finding.is_primary]
    for question, text in QUESTIONS.items():
        found = [finding for finding in findings if finding.question == question]
        if not found:
            continue
        counts = Counter(finding.verdict for finding in found)
        verdicts = ", ".join(
            f"<span class='{css_class(name)}'>{counts[name]} {name}</span>" for name in VERDICTS if counts[name]
        )
        sentences = "".join(f"<li>{coloured(finding)}</li>" for finding in found)
        is_open = " open" if len(found) <= 5 else ""
        parts.append(
            f"<details{is_open}><summary><strong>{html.escape(text)}</strong> {verdicts}</summary>"
            f"<ul>{sentences}</ul></details>"
        )
    return parts


def noise_section(tables: Tables) -> list[str]:
    """How much the scores and gains vary by chance, and the smallest gain that this study can show."""
    if tables.variation.empty:
        return []
    return [
        "<h2>Noise</h2>",
        "<p>Columns: item_error is the standard error over items of one model's score; seed_sd, run_sd and "
        "checkpoint_sd are standard deviations between fine-tuning seeds of one run, between pre-training runs beyond "
        "item noise, and of one checkpoint about its neighbours; signal is the range of the curve; gain_ columns are "
        "of fine-tuned minus base: its standard deviation between replicates, and the half width of the 95% "
        "prediction interval of a further one; smallest_gain is the true gain that a test at "
        f"{LEVEL:.0%} shows in {POWER:.0%} of studies with as many replicates and items, and is empty with fewer than "
        f"{FEWEST_REPLICATES} replicates.</p>",
        table(tables.variation, VARIATION_COLUMNS, file=FILES["variation"]),
    ]


def coloured(finding: Finding) -> str:
    """The sentence, with its verdict in colour."""
    separator = "," if finding.verdict == DESCRIBED else ":"
    verdict, _, rest = finding.sentence.partition(separator)
    return f"<b class='{css_class(finding.verdict)}'>{html.escape(verdict)}{separator}</b>{html.escape(rest)}"


def css_class(verdict: str) -> str:
    return verdict.replace(" ", "-")


def figures_section(grids: Mapping[str, Grid], axis: str) -> list[str]:
    """An empty element for each figure, which the page's script fills, and the controls of all figures."""
    steps = "<option value='steps'>steps</option>" if axis == "step" else ""
    parts = [
        "<h2>Figures</h2><div class='controls' role='group' aria-label='figures'>"
        f"<label>Axis <select id='axis'><option value='index'>checkpoints</option>{steps}"
        "<option value='tokens'>tokens</option></select></label>"
        "<label><input type='checkbox' id='log'> log</label><details><summary>Curves</summary>"
        "<div id='series'></div></details></div>"
    ]
    for name, grid in grids.items():
        is_open = "" if name.startswith("appendix") else " open"
        parts.append(
            f"<details class='figure' id='{name}'{is_open}>"
            f"<summary><strong>{html.escape(FIGURES[name].title)}</strong></summary>"
            f"<p>{html.escape(caption_of(name, grid))}</p><div class='panels'></div></details>"
        )
    return parts


def missing_section(missing: pd.DataFrame, study: Study | None) -> list[str]:
    if len(missing):
        return [f"<h2>Missing: {len(missing)} measurements</h2>", table(missing, file=FILES["missing"])]
    nothing = "No measurement of the study is missing." if study else "Unknown, since no study was named."
    return ["<h2>Missing measurements</h2>", f"<p>{nothing}</p>"]


def degenerate_section(tables: Tables) -> list[str]:
    """Scores that carry no information; no section where there are none."""
    found = degenerate_results(tables)
    if not found:
        return []
    frame = pd.DataFrame([asdict(result) for result in found])
    heading = f"<h2>Degenerate results: {sum(len(result.sources) for result in found)} numbers</h2>"
    return [heading, table(frame, ("kind", "setting", "where", "why"), file=FILES["performance"])]


def paper_section(folder: Path) -> list[str]:
    """Results of compare_paper.py."""
    numbers, curves, claims = (read_table(folder / f"{name}.csv") for name in ("numbers", "curves", "claims"))
    counts = ", ".join(f"{count} {verdict}" for verdict, count in Counter(numbers["verdict"]).items())
    measured = where(numbers, numbers["own"].notna())
    return [
        f"<h2>Comparison with the paper</h2><p>{len(numbers)} published numbers: {counts}.</p>",
        "<h3>Effects that both have</h3>",
        table(claims, ("claim", "own_effect", "published_effect", "agreement"), file="paper/claims.csv"),
        "<h3>Curves</h3>",
        table(curves, file="paper/curves.csv"),
        "<h3>Numbers</h3>",
        table(measured, PAPER_COLUMNS, file="paper/numbers.csv"),
    ]
