import html.parser
import json
import re
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient

from analysis import run_notebook
from analysis.figures.study_figures import FIGURES
from analysis.page.html_tables import cell
from analysis.page.report_page import shown_tables
from analysis.run_notebook import NOTEBOOK
from analysis.tables.columns import FILES
from analysis.tables.frames import read_tables
from open_instruct.common.paths import RELEASED_RESULTS
from open_instruct.common.sidecars import read_sidecar

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(reported):
    return reported / "results" / "simulated"


@pytest.fixture
def page(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


class Outline(html.parser.HTMLParser):
    """Tags, and whether each is closed."""

    VOID = ("meta", "img", "br", "input")

    def __init__(self):
        super().__init__()
        self.open, self.links = [], []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_well_formed_and_needs_no_network(page, folder):
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    # Links lead to files beside the page; nothing is loaded from a server.
    assert outline.links == [FILES["performance"], FILES["suites"]]
    assert all((folder / link).is_file() for link in outline.links)


def test_page_has_every_finding_before_figures_and_tables(page, folder):
    findings = json.loads((folder / "findings.json").read_text())["findings"]
    assert page.count("<li>") == len(findings)
    order = [page.index(f"<h2>{name}") for name in ("Setup", "Findings", "Noise", "Figures", "Tables")]
    assert order == sorted(order)


def test_page_says_what_the_replicates_are_and_that_the_learning_rate_is_fixed(page):
    assert "one model at each checkpoint (base, hellaswag_endings, qa_chat, socialiqa)" in page
    assert "olmo1b (pre-training runs: default)" in page
    assert re.search(r"socialiqa \(3 epochs, lr 0.001, batch 8, seeds \d+\)", page)
    assert "<th>Learning rate</th><td style='white-space:normal'>the same for all checkpoints</td>" in page


def test_page_has_the_levels_with_their_prediction_intervals_in_place_of_single_models(page):
    shown = {
        name: page.count(f"data-file='{FILES[name]}'") for name in ("levels", "variation", "performance", "suites")
    }
    assert shown == {"levels": 1, "variation": 1, "performance": 0, "suites": 0}
    table = page[page.index(f"data-file='{FILES['levels']}'") :]
    head = re.findall(r"<button>([^<]+)</button>", table[: table.index("</thead>")])
    assert {"ci_low", "next_low", "replicates", "unit"} <= set(head)


def test_page_lists_missing_measurements(page):
    assert "Missing: 1 measurements" in page
    assert "boolq_checkpoint-20.json" in page


def test_every_output_has_a_sidecar(folder):
    made = [path for path in folder.iterdir() if not path.name.endswith(".meta.json")]
    assert {path.name for path in made} == {
        *(FILES[name] for name in (*shown_tables(read_tables(folder)), "performance", "suites", "variation")),
        "measurements.parquet",
        "missing.csv",
        "findings.json",
        "findings.csv",
        "findings.tex",
        "figures",
        "tables",
        "report.html",
    }
    assert all(read_sidecar(path)["files"] for path in made)


def test_every_figure_is_saved_as_png_and_pdf(folder):
    found = {path.name for path in (folder / "figures").glob("*.p*")}
    # Weight noise, weight change and the paper's pairs were not measured, and there is one size.
    expected = {name for name, figure in FIGURES.items() if not figure.table} - {"fig13_gain_by_size"}
    assert found == {f"{name}.{ending}" for name in expected for ending in ("png", "pdf")}


def test_text_from_files_is_escaped():
    assert cell("<script>") == "<td>&lt;script&gt;</td>"


def test_rounded_numbers_are_sorted_by_their_full_value():
    assert cell(0.123456) == "<td data-value='0.123456'>0.1235</td>"
    assert cell(None) == "<td></td>"


def test_notebook_is_stored_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


def test_notebook_draws_every_figure_of_a_study(reported, folder, monkeypatch):
    monkeypatch.setenv("base_dir", str(reported))
    run_notebook.main(run_notebook.Args(reported / "simulated.yaml"))
    notebook = nbformat.read(folder / NOTEBOOK.name, as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == len(FIGURES)
    assert read_sidecar(folder / NOTEBOOK.name)["inputs"].keys() >= {"notebook", "all_perf_table.csv", "findings.csv"}


def test_notebook_reads_the_released_tables_where_no_folder_is_named(monkeypatch):
    monkeypatch.delenv("results_folder", raising=False)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (first, *_) = [cell for cell in notebook.cells if cell.cell_type == "code"]
    notebook.cells = [first, nbformat.v4.new_code_cell("print(folder, len(tables.performance))")]
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    expected = f"{RELEASED_RESULTS} {len(read_tables(RELEASED_RESULTS).performance)}"
    assert notebook.cells[-1].outputs[0]["text"].strip() == expected


@pytest.mark.parametrize("name", ["notebook", "lab"])
def test_jupyter_comes_with_the_installation(name):
    pytest.importorskip("notebook", reason="not in this environment, which is older than pyproject.toml")
    subprocess.run([sys.executable, "-m", "jupyter", name, "--version"], check=True)


def test_results_have_the_same_bytes_in_any_hash_order(reported, folder, run_report):
    def results():
        found = (path for path in folder.rglob("*") if path.is_file() and "meta.json" not in path.name)
        return {path.name: path.read_bytes() for path in found}

    first = results()
    run_report(reported, hash_seed="2")
    assert results() == first
