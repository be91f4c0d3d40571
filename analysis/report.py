"""Everything from measurements to one page: tables, findings, figures, report.

Reads    what produce_tables.py reads.
Writes   what produce_tables.py, findings.py and plotting.py write, and results/analysis/report.html: one file that
         needs no network. The same measurements give the same bytes.

    python analysis/report.py --study scripts/studies/tiny.yaml
"""

import html
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, Literal

import pandas as pd
from plotly.offline import get_plotlyjs

from analysis import findings, plotting, produce_tables
from analysis.figures.interactive import interactive_figures, labels_of
from analysis.findings import FAMILIES
from analysis.inference.degenerate_results import faults
from analysis.plotting import figures_of
from analysis.tables.frames import (
    DIFFERENCE_TABLE,
    DISTANCE_TABLE,
    GROUP_TABLE,
    MISSING_TABLE,
    NOISE_TABLE,
    PERFORMANCE_TABLE,
    SUITE_TABLE,
    SUMMARY_TABLE,
    Tables,
    order_checkpoints,
    read_table,
    read_tables,
    where,
)
from open_instruct.common import paths
from open_instruct.common.artifacts import (
    Artifact,
    git_commit,
    package_version,
    sidecar_path,
)
from open_instruct.common.cli import run
from open_instruct.common.json_files import atomic_write, read_json
from open_instruct.study.loading import load_study

TEMPLATE = Path(__file__).parent / "page" / "report.html.template"
SCRIPT = Path(__file__).parent / "page" / "report.js"
VERDICTS = ("supported", "contradicted", "undecided", "missing")
VERSIONED = ("torch", "transformers", "ai2-olmo", "numpy", "scipy", "pandas", "matplotlib")
LEVEL = ("series", "checkpoint", "eval dataset", "metric", "Performance", "ci_low", "ci_high", "n", "source")
CHANGE = ("difference", "ci_low", "ci_high", "p_value", "n")
SHOWN = {
    GROUP_TABLE: ("Mean change over tasks that improve with pre-training, and others", ()),
    SUMMARY_TABLE: ("Mean change by fine-tuning", ()),
    PERFORMANCE_TABLE: (
        "Performance",
        LEVEL,
    ),
    SUITE_TABLE: (
        "Ranked-classification suites",
        LEVEL,
    ),
    NOISE_TABLE: (
        "Noise on the weights",
        ("series", "checkpoint", "setting", "size", "draws", "bits_per_byte", *CHANGE[:3], "source"),
    ),
    DISTANCE_TABLE: (
        "Distance moved by fine-tuning, by layer",
        ("series", "checkpoint", "layer", "weights", "distance", "base_norm", "relative", "source"),
    ),
    DIFFERENCE_TABLE: (
        "Models compared on the same items",
        ("comparison", "series", "reference", "checkpoint", "eval dataset", "metric", *CHANGE),
    ),
}


@dataclass(frozen=True)
class Args:
    study: Path | None = None
    """Take only the models and evaluations of this study, and list what is missing (default: all there is)."""
    released: Path | None = None
    """Folder of the authors' released tables, to be read in place of one's own measurements."""
    scale: Literal["index", "linear", "log"] = "index"
    """Of the printed figures: checkpoints at even distances, by step or tokens, or by log(1 + step / smallest)."""
    axis: Literal["step", "tokens"] = "step"
    """Count pre-training in steps or in tokens, in the printed figures."""


def main(args: Args) -> None:
    produce_tables.main(produce_tables.Args(study=args.study, released=args.released))
    findings.main(findings.Args())
    plotting.main(plotting.Args(scale=args.scale, axis=args.axis))

    folder = paths.results_dir()
    names = (*shown_in(folder), MISSING_TABLE, "findings.json", "figures")
    arguments = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    inputs = {name: folder / name for name in names} | ({"paper": folder / "paper"} if has_paper(folder) else {})
    artifact = Artifact(folder / "report.html", arguments=arguments, inputs=inputs)
    with artifact.making():
        page = build_page(folder, args.study)
        with atomic_write(artifact.path) as file:
            file.write(page)
    print(f"wrote {artifact.path}")


def build_page(folder: Path, study_file: Path | None = None) -> str:
    """The page of a results folder.  Raises UserError where a part of it is not there."""
    tables = {name: read_table(folder / name) for name in (*shown_in(folder), MISSING_TABLE)}
    title = "What does pre-training give to fine-tuning?"
    shown = read_tables(folder)
    content = [
        *what_was_run(tables[PERFORMANCE_TABLE], tables[SUITE_TABLE], study_file),
        *findings_section(read_json(folder / "findings.json")),
        *figures_section(shown),
        *missing_section(tables[MISSING_TABLE], study_file),
        *unsound_section(shown),
        *paper_section(folder),
        "<h2>Tables</h2>",
    ]
    for name in shown_in(folder):
        (heading, columns), frame = SHOWN[name], tables[name]
        content += [f"<h3>{heading}</h3>", table(frame, columns or tuple(frame.columns), file=name)]
    template = Template(TEMPLATE.read_text(encoding="utf-8"))
    figures = interactive_figures(shown)
    # Inside a script element only "</" and "<!--" end or change it.
    data = json.dumps({"figures": figures, "labels": labels_of(figures)}, allow_nan=False).replace("<", "\\u003c")
    return template.substitute(
        title=html.escape(title),
        content="\n".join(content),
        data=data,
        plotly=get_plotlyjs().replace("</script", "<\\/script"),
        script=SCRIPT.read_text(encoding="utf-8"),
    )


def shown_in(folder: Path) -> list[str]:
    """The tables that the page shows; of those that few studies measure, the ones that are there."""
    return [name for name in SHOWN if name not in (NOISE_TABLE, DISTANCE_TABLE) or (folder / name).is_file()]


def what_was_run(performance: pd.DataFrame, suites: pd.DataFrame, study_file: Path | None) -> list[str]:
    both = pd.concat([performance, suites])
    checkpoints = ", ".join(order_checkpoints(both["checkpoint"]))
    items = performance.groupby("eval dataset")["n"].agg(["min", "max"])
    sizes = [f"{name}{size_of(low, high)}" for name, low, high in items.itertuples()]
    facts = {
        "Models": f"{both['model_id'].nunique()}: {listed(both['series'])} at checkpoints {checkpoints}",
        "Evaluation sets": ", ".join(sizes) or "none",
        "Suite tasks": listed(suites["eval dataset"]) or "none",
        "Versions": ", ".join(f"{name} {package_version(name)}" for name in VERSIONED),
        "Commit of the analysis": git_commit() or "unknown",
    }
    if study_file:
        study = load_study(study_file)
        recipes = [
            f"{name} ({r.epochs} epochs, lr {listed(f'{lr:g}' for lr in r.lr)}, batch {r.batch_size})"
            for name, r in study.train_sets.items()
        ]
        families, shots = listed(study.steps_by_family()), listed(map(str, study.shots))
        facts = {"Study": f"{study.name}, family {families}, seed {study.seed}, {shots} shots"} | facts
        facts["Fine-tuned on"] = ", ".join(recipes)
    rows = [
        f"<tr><th>{html.escape(key)}</th><td style='white-space:normal'>{html.escape(value)}</td></tr>"
        for key, value in facts.items()
    ]
    return ["<h2>What was run</h2>", f"<table>{''.join(rows)}</table>"]


def size_of(low: Any, high: Any) -> str:
    """Of an evaluation set; published tables name none."""
    return "" if pd.isna(low) else f" ({low} items)" if low == high else f" ({low} to {high} items)"


def listed(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values))


def findings_section(content: Mapping[str, Any]) -> list[str]:
    """One line a family of claims with its verdicts, the sentences folded below it where they are many."""
    parts = [
        "<h2>Findings</h2>",
        f"<p>At level {content['level']}, Holm-corrected within each question. Intervals and p-values are over the "
        "items (or, for trends, over the checkpoints) of one training run: they do not cover another seed.</p>",
    ]
    for family, question in FAMILIES.items():
        found = [finding for finding in content["findings"] if finding["family"] == family]
        if not found:
            continue
        counts = Counter(finding["verdict"] for finding in found)
        verdicts = ", ".join(f"<span class='{name}'>{counts[name]} {name}</span>" for name in VERDICTS if counts[name])
        sentences = "".join(f"<li>{marked(finding)}</li>" for finding in found)
        is_open = " open" if len(found) <= 5 else ""
        parts.append(
            f"<details{is_open}><summary><strong>{html.escape(question)}</strong> {verdicts}</summary>"
            f"<ul>{sentences}</ul></details>"
        )
    return parts


def marked(finding: Mapping[str, Any]) -> str:
    """The sentence, its verdict coloured."""
    verdict, _, rest = finding["sentence"].partition(":")
    return f"<b class='{finding['verdict']}'>{html.escape(verdict)}:</b>{html.escape(rest)}"


def figures_section(tables: Tables) -> list[str]:
    """A place for each figure, which the page's script fills, and the controls of them all."""
    parts = [
        "<h2>Figures</h2><div class='controls' role='group' aria-label='figures'>"
        "<label>Axis <select id='axis'><option value='index'>checkpoints</option><option value='steps'>steps</option>"
        "<option value='tokens'>tokens</option></select></label>"
        "<label><input type='checkbox' id='log'> log</label><details><summary>Curves</summary>"
        "<div id='series'></div></details></div>"
    ]
    for name, figure in figures_of(tables):
        is_open = "" if name.startswith("appendix") else " open"
        parts.append(
            f"<details class='figure' id='{name}'{is_open}>"
            f"<summary><strong>{html.escape(figure.title)}</strong></summary>"
            f"<p>{html.escape(figure.caption)}</p><div class='panels'></div></details>"
        )
    return parts


def missing_section(missing: pd.DataFrame, study_file: Path | None) -> list[str]:
    if len(missing):
        return [
            f"<h2>Missing: {len(missing)} measurements</h2>",
            table(missing, tuple(missing.columns), file=MISSING_TABLE),
        ]
    nothing = "Every measurement of the study is there." if study_file else "No study was named, so none can be told."
    return ["<h2>Missing measurements</h2>", f"<p>{nothing}</p>"]


def unsound_section(tables: Tables) -> list[str]:
    """Numbers that measure nothing; no section where there are none."""
    found = faults(tables.performance, tables.suites)
    if not found:
        return []
    columns = ("kind", "setting", "where", "why")
    frame = pd.DataFrame([{name: getattr(fault, name) for name in columns} for fault in found])
    return [
        f"<h2>Unsound: {sum(len(fault.sources) for fault in found)} numbers</h2>",
        table(frame, columns, file=PERFORMANCE_TABLE),
    ]


def has_paper(folder: Path) -> bool:
    return sidecar_path(folder / "paper").is_file()


def paper_section(folder: Path) -> list[str]:
    """What compare_paper.py found, where it was run."""
    if not has_paper(folder):
        return []
    numbers, curves, claims = (read_table(folder / "paper" / f"{name}.csv") for name in ("numbers", "curves", "claims"))
    counts = ", ".join(f"{count} {verdict}" for verdict, count in Counter(numbers["verdict"]).items())
    measured = where(numbers, numbers["own"].notna())
    columns = ("own_series", "checkpoint", "eval dataset", "metric", "shots", "own", "published", "difference")
    columns += ("ci_low", "ci_high", "verdict", "note", "own_source", "published_source")
    return [
        f"<h2>Against the paper</h2><p>{len(numbers)} published numbers: {counts}.</p>",
        *(
            "<h3>Claims put to both</h3>",
            table(claims, ("claim", "own", "published", "agreement"), file="paper/claims.csv"),
        ),
        *("<h3>Curves</h3>", table(curves, tuple(curves.columns), file="paper/curves.csv")),
        *("<h3>Numbers</h3>", table(measured, columns, file="paper/numbers.csv")),
    ]


def table(frame: pd.DataFrame, columns: Sequence[str], *, file: str) -> str:
    """Rows that sort and filter; `file` has them all, for paper shows the first ones only."""
    head = "".join(f"<th scope='col'><button>{html.escape(str(name))}</button></th>" for name in columns)
    named = zip(*([(column, value) for value in frame[column]] for column in columns), strict=True)
    rows = ["<tr>" + "".join(linked(*pair) for pair in row) + "</tr>" for row in named]
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f"<div class='scroll' tabindex='0'><table class='data' data-file='{file}'>{body}</table></div>"


def linked(column: str, value: Any) -> str:
    """A source leads to its sidecar, seen from results/analysis; a row of a released table has none."""
    if not column.endswith("source") or not isinstance(value, str) or not value.endswith(".json"):
        return cell(value)
    href = html.escape(f"../../{value}.meta.json")
    return f"<td><a href='{href}'>{html.escape(value.rsplit('/', 1)[-1])}</a></td>"


def cell(value: Any) -> str:
    """Four digits to read, the whole number to sort by."""
    if value is None or pd.isna(value):
        return "<td></td>"
    if isinstance(value, float):
        return f"<td data-value='{value!r}'>{value:.4g}</td>"
    return f"<td>{html.escape(str(value))}</td>"


if __name__ == "__main__":
    run(main, Args)
