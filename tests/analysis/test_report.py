import html.parser
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbconvert.preprocessors import ExecutePreprocessor
from simulated_study import STUDY, write_study

from analysis import report
from analysis.figures.study_figures import FIGURES
from analysis.page.html_tables import cell
from analysis.page.report_page import shown_tables
from analysis.tables.frames import FILES, read_tables
from open_instruct.common import paths
from open_instruct.common.artifacts import read_sidecar
from open_instruct.common.paths import REPOSITORY

NOTEBOOK = Path(report.__file__).with_name("gen_paper_figs.ipynb")
SMALL = (
    STUDY.replace("[0, 20, 60, 150, 300]", "[0, 20]")
    .replace("  rte: {}\n  mrpc: {}\n", "")
    .replace("  hellaswag_endings: {}\n", "")
    .replace("  hellaswag_endings: {epochs: 3, lr: 1e-3}\n", "")
)
pytestmark = pytest.mark.slow


def run_report(base_dir, *, hash_seed):
    """Run the script in a process whose sets and dicts of strings have another order for another `hash_seed`."""
    command = [sys.executable, str(REPOSITORY / "analysis" / "report.py"), "--study", str(base_dir / "simulated.yaml")]
    environment = os.environ | {"base_dir": str(base_dir), "PYTHONHASHSEED": hash_seed}
    environment["PYTHONPATH"] = f"{REPOSITORY / 'eval'}:{REPOSITORY}"
    subprocess.run(command, env=environment, check=True, capture_output=True)


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory):
    base_dir = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("base_dir", str(base_dir))
        write_study(base_dir, num_items=8, text=SMALL)
        paths.suite_file("boolq", "checkpoint-20").unlink()
        run_report(base_dir, hash_seed="1")
        yield base_dir


@pytest.fixture
def page(base_dir):
    return (paths.results_dir() / "report.html").read_text(encoding="utf-8")


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


def test_page_is_well_formed_and_needs_no_network(page):
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    # Links lead to sidecars beside the page; nothing is loaded from a server.
    assert outline.links
    assert all(re.fullmatch(r"\.\./\.\./[\w./-]+\.meta\.json", link) for link in outline.links)
    assert all((paths.results_dir() / link).is_file() for link in outline.links)


def test_page_has_every_finding_before_figures_and_tables(page):
    findings = json.loads((paths.results_dir() / "findings.json").read_text())["findings"]
    assert page.count("<li>") == len(findings)
    assert page.index("<h2>Findings") < page.index("<h2>Figures") < page.index("<h2>Tables")


def test_page_lists_missing_measurements(page):
    assert "Missing: 1 measurements" in page
    assert "boolq_checkpoint-20.json" in page


def test_every_output_has_a_sidecar(base_dir):
    folder = paths.results_dir()
    made = [path for path in folder.iterdir() if not path.name.endswith(".meta.json")]
    assert {path.name for path in made} == {
        *(FILES[name] for name in shown_tables(read_tables(folder))),
        "measurements.parquet",
        "missing.csv",
        "findings.json",
        "findings.csv",
        "figures",
        "report.html",
    }
    assert all(read_sidecar(path)["files"] for path in made)


def test_every_figure_is_saved_as_png_and_pdf(base_dir):
    found = {path.name for path in (paths.results_dir() / "figures").glob("*.p*")}
    # Weight noise and weight change were not measured.
    expected = FIGURES.keys() - {"fig9_noise_on_weights", "fig10_weight_distance"}
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


def test_notebook_draws_every_figure_of_a_results_folder(base_dir):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    # The kernel inherits base_dir from this process.
    ExecutePreprocessor(timeout=120, kernel_name="python3").preprocess(notebook)
    images = [o for cell in notebook.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(images) == len(FIGURES)


def test_results_have_the_same_bytes_in_any_hash_order(base_dir):
    def results():
        found = (path for path in paths.results_dir().rglob("*") if path.is_file() and "meta.json" not in path.name)
        return {path.name: path.read_bytes() for path in found}

    first = results()
    run_report(base_dir, hash_seed="2")
    assert results() == first
