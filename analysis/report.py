"""Everything from measurements to one page: tables, findings, figures, report.

Reads    what produce_tables.py reads.
Writes   what produce_tables.py, findings.py and plotting.py write, and results/analysis/report.html: one file that
         needs no network. The same measurements give the same bytes.

    python analysis/report.py --study scripts/studies/tiny.yaml
"""

import base64
import html
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, Literal

import pandas as pd

from analysis import findings, plotting, produce_tables
from analysis.findings import FAMILIES
from analysis.plotting import FIGURES
from analysis.tidy import (
    DIFFERENCE_TABLE,
    MISSING_TABLE,
    PERFORMANCE_TABLE,
    SUITE_TABLE,
    SUMMARY_TABLE,
    order_checkpoints,
    read_table,
)
from open_instruct import paths
from open_instruct.cli import run
from open_instruct.records import Artifact, atomic_write, git_commit, package_version, read_json
from open_instruct.study import load_study

TEMPLATE = Path(__file__).with_name("report.html.template")
VERDICTS = ("supported", "contradicted", "undecided", "missing")
VERSIONED = ("torch", "transformers", "ai2-olmo", "numpy", "scipy", "pandas", "matplotlib")
LEVEL = ("series", "checkpoint", "eval dataset", "metric", "Performance", "ci_low", "ci_high", "n")
CHANGE = ("difference", "ci_low", "ci_high", "p_value", "n")
SHOWN = {
    SUMMARY_TABLE: ("Mean change by fine-tuning", ()),
    PERFORMANCE_TABLE: (
        "Performance",
        LEVEL,
    ),
    SUITE_TABLE: (
        "Ranked-classification suites",
        LEVEL,
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
    scale: Literal["index", "linear", "log"] = "index"
    """Step axis of the figures: checkpoints at even distances, by step, or by log(1 + step / smallest)."""


def main(args: Args) -> None:
    produce_tables.main(produce_tables.Args(study=args.study))
    findings.main(findings.Args())
    plotting.main(plotting.Args(scale=args.scale))

    folder = paths.results_dir()
    names = (*SHOWN, MISSING_TABLE, "findings.json", "figures")
    arguments = {"study": str(args.study) if args.study else None, "scale": args.scale}
    artifact = Artifact(folder / "report.html", arguments=arguments, inputs={name: folder / name for name in names})
    with artifact.making():
        page = build_page(folder, args.study)
        with atomic_write(artifact.path) as file:
            file.write(page)
    print(f"wrote {artifact.path}")


def build_page(folder: Path, study_file: Path | None = None) -> str:
    """The page of a results folder.  Raises UserError where a part of it is not there."""
    tables = {name: read_table(folder / name) for name in (*SHOWN, MISSING_TABLE)}
    title = "What does pre-training give to fine-tuning?"
    content = [
        *what_was_run(tables[PERFORMANCE_TABLE], tables[SUITE_TABLE], study_file),
        *findings_section(read_json(folder / "findings.json")),
        *figures_section(folder / "figures"),
        *missing_section(tables[MISSING_TABLE], study_file),
        "<h2>Tables</h2>",
    ]
    for name, (heading, columns) in SHOWN.items():
        frame = tables[name]
        content += [f"<h3>{heading}</h3>", table(frame, columns or tuple(frame.columns))]
    template = Template(TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(title=html.escape(title), content="\n".join(content))


def what_was_run(performance: pd.DataFrame, suites: pd.DataFrame, study_file: Path | None) -> list[str]:
    both = pd.concat([performance, suites])
    checkpoints = ", ".join(order_checkpoints(both["checkpoint"]))
    items = performance.groupby("eval dataset")["n"].agg(["min", "max"])
    sizes = [
        f"{name} ({low} to {high} items)" if low < high else f"{name} ({low} items)"
        for name, low, high in items.itertuples()
    ]
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


def figures_section(folder: Path) -> list[str]:
    parts = ["<h2>Figures</h2>"]
    for name, figure in FIGURES.items():
        data = base64.b64encode((folder / f"{name}.png").read_bytes()).decode()
        caption = html.escape(figure.caption)
        parts.append(
            f"<figure id='{name}'><img alt='{caption}' src='data:image/png;base64,{data}'>"
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return parts


def missing_section(missing: pd.DataFrame, study_file: Path | None) -> list[str]:
    if len(missing):
        return [f"<h2>Missing: {len(missing)} measurements</h2>", table(missing, tuple(missing.columns))]
    nothing = "Every measurement of the study is there." if study_file else "No study was named, so none can be told."
    return ["<h2>Missing measurements</h2>", f"<p>{nothing}</p>"]


def table(frame: pd.DataFrame, columns: Sequence[str]) -> str:
    head = "".join(f"<th scope='col'><button>{html.escape(str(name))}</button></th>" for name in columns)
    rows = ["<tr>" + "".join(map(cell, values)) + "</tr>" for values in zip(*(frame[c] for c in columns), strict=True)]
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"


def cell(value: Any) -> str:
    """Four digits to read, the whole number to sort by."""
    if value is None or pd.isna(value):
        return "<td></td>"
    if isinstance(value, float):
        return f"<td data-value='{value!r}'>{value:.4g}</td>"
    return f"<td>{html.escape(str(value))}</td>"


if __name__ == "__main__":
    run(main, Args)
