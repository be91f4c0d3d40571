r"""Tables for LaTeX: escaped, a column for each checkpoint, the same bytes for the same rows."""

import json
import re
import shutil
import subprocess

import pandas as pd
import pytest
from simulated_study import STUDY, write_study

from analysis import findings, produce_tables
from analysis.tables.frames import read_tables, select
from analysis.tables.latex import LONGEST_TABULAR, latex_cell, to_latex
from open_instruct.common import paths
from open_instruct.common.sidecars import read_sidecar

SMALL = (
    STUDY.replace("[0, 20, 60, 150, 300]", "[0, 20]")
    .replace("  qa_chat: {epochs: 5, lr: 1e-3}\n", "")
    .replace(", train_sets: [qa_chat]", "")
)


@pytest.fixture
def study_file(base_dir):
    study_file = write_study(base_dir, num_items=8, text=SMALL)
    produce_tables.main(produce_tables.Args(study_file))
    return study_file


def rows_of(name):
    """Cells of every row of a file, head included."""
    text = (paths.results_dir("simulated") / "tables" / name).read_text()
    return [line.removesuffix(r" \\").split(" & ") for line in text.splitlines() if line.endswith(r"\\")]


def test_scores_have_a_column_for_each_checkpoint_with_their_standard_error(study_file):
    head, *rows = rows_of("all_perf_table.tex")
    assert head == ["evaluation set", "format", "metric", "series", "0", "20"]
    performance = read_tables(paths.results_dir("simulated")).performance
    assert len(rows) == len(performance) / 2
    (row,) = [row for row in rows if row[:4] == [r"heldout\_text", "default", "bits per byte", "base"]]
    scores = select(performance, eval_set="heldout_text", series="base")
    assert row[4:] == [f"{s:.3f} ({e:.3f})" for s, e in zip(scores["Performance"], scores["std"], strict=True)]


def test_every_table_of_a_paper_is_there_with_its_rows(study_file):
    tables = read_tables(paths.results_dir("simulated"))
    folder = paths.results_dir("simulated") / "tables"
    assert {path.stem for path in folder.glob("*.tex")} == {
        *("all_perf_table", "official_eval_table", "paired_differences", "change_summary", "group_summary", "variation")
    }
    assert read_sidecar(folder)["files"].keys() == {path.name for path in folder.glob("*.tex")}
    assert len(rows_of("paired_differences.tex")) == 1 + len(tables.differences)
    assert len(rows_of("change_summary.tex")) == 1 + len(tables.changes)


def test_findings_have_a_row_for_each_claim_with_its_verdict(study_file):
    findings.main(findings.Args(study_file))
    folder = paths.results_dir("simulated")
    found = json.loads((folder / "findings.json").read_text())["findings"]
    head, *rows = rows_of("../findings.tex")
    assert (head[0], head[-1]) == ("claim", "verdict")
    assert [(row[0], row[-1]) for row in rows] == [(latex_cell(f["claim"]), f["verdict"]) for f in found]
    assert read_sidecar(folder / "findings.tex")["inputs"]


def test_the_same_measurements_give_the_same_bytes(study_file):
    folder = paths.results_dir("simulated") / "tables"
    first = {path.name: path.read_bytes() for path in folder.glob("*.tex")}
    produce_tables.main(produce_tables.Args(study_file))
    assert {path.name: path.read_bytes() for path in folder.glob("*.tex")} == first


def test_cells_are_escaped_and_numbers_have_three_digits():
    assert latex_cell("50% of a_b & {c} #1 \\x ~ ^ <$>") == (
        r"50\% of a\_b \& \{c\} \#1 \textbackslash{}x \textasciitilde{} \textasciicircum{} "
        r"\textless{}\$\textgreater{}"
    )
    assert [latex_cell(value) for value in (-0.10812, 1.2e-5, 4, None, float("nan"))] == [
        *("$-0.108$", r"$1.2 \times 10^{-5}$", "4", "--", "--")
    ]


@pytest.mark.parametrize("num_rows", [LONGEST_TABULAR, LONGEST_TABULAR + 1])
def test_a_long_table_breaks_over_pages_and_repeats_its_head(tmp_path, num_rows):
    to_latex(pd.DataFrame({"name": ["a"] * num_rows, "empty": None, "n": range(num_rows)}), tmp_path / "t.tex")
    text = (tmp_path / "t.tex").read_text()
    is_long = num_rows > LONGEST_TABULAR
    assert re.search(r"\\begin{(\w+)}{(\w+)}", text)[2] == "lr"
    assert (r"\begin{longtable}" in text, r"\endhead" in text) == (is_long, is_long)
    assert text.count(r" \\") == 1 + num_rows


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_every_table_compiles(study_file, tmp_path):
    findings.main(findings.Args(study_file))
    folder = paths.results_dir("simulated")
    body = "\n".join(f"\\input{{{path}}}" for path in sorted(folder.rglob("*.tex")))
    document = f"\\documentclass{{article}}\\usepackage{{booktabs,longtable}}\\begin{{document}}{body}\\end{{document}}"
    (tmp_path / "all.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
