"""A table that was put in place of results/…/all_perf_table.csv: nothing beside it is read that is not of it."""

import shutil

import nbformat
import pytest
from nbclient import NotebookClient
from released_tables import write_released
from simulated_study import STUDY, write_study

from analysis import findings, plotting, produce_tables, report
from analysis.figures.study_figures import build_grids
from analysis.inference.findings import findings_of
from analysis.inference.result_tables import build_tables, load_results, with_summaries
from analysis.run_notebook import NOTEBOOK
from analysis.tables import replaced
from analysis.tables.frames import read_table, read_tables
from analysis.tables.gathering import gather_released
from open_instruct.common import paths
from open_instruct.common.errors import UserError

TEXT = STUDY.replace("[0, 20, 60, 150, 300]", "[0, 20]").replace("  rte: {}\n  mrpc: {}\n", "")
PERFORMANCE, SUITES = "all_perf_table.csv", "official_eval_table.csv"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Results of a study."""
    monkeypatch.setenv("base_dir", str(tmp_path))
    produce_tables.main(produce_tables.Args(write_study(tmp_path, num_items=8, text=TEXT)))
    return paths.results_dir("simulated")


@pytest.fixture
def released(tmp_path):
    return write_released(tmp_path / "released")


def test_results_as_they_were_made_are_read(folder):
    results = load_results(folder)
    assert not results.is_replaced
    assert results.tables.levels.equals(read_tables(folder).levels)
    assert "levels.csv" in results.files


def test_tables_with_sidecars_are_not_read_to_see_that_they_are_as_they_were_made(folder, monkeypatch):
    monkeypatch.setattr(replaced, "read_table", None)
    assert not replaced.is_replaced(folder)


def test_of_the_authors_table_everything_is_made_anew_and_stale_suites_are_left_out(folder, released, capsys):
    shutil.copy(released / PERFORMANCE, folder)
    results = load_results(folder)
    assert results.is_replaced
    assert set(results.files) == {PERFORMANCE}
    assert results.tables.suites.empty
    assert "not read: " in capsys.readouterr().out
    (released / SUITES).unlink()
    (released / "it_perf_table.csv").unlink()
    expected = with_summaries(build_tables(gather_released(released)))
    for name, frame in vars(results.tables).items():
        assert frame.equals(getattr(expected, name)), name
    assert set(findings_of(results, folder)["question"]) <= {"fine-tuning gain", "other tasks", *LATENT}


LATENT = {f"latent benefit: {name}, score" for name in ("level", "gain", "plateau")}
LATENT |= {"over-training", "who gains most", "format sensitivity", "format sensitivity trend"}


def test_figures_and_findings_of_a_replaced_table_are_written(folder, released, monkeypatch, capsys):
    # One figure, since all of them take long to draw.
    monkeypatch.setattr(plotting, "build_grids", lambda tables: {"fig6_bars": build_grids(tables)["fig6_bars"]})
    for name in (PERFORMANCE, SUITES):
        shutil.copy(released / name, folder)
    plotting.main(plotting.Args(folder=folder))
    capsys.readouterr()
    findings.main(findings.Args(folder=folder))
    assert "the tables in" not in capsys.readouterr().out  # as if they were still of the study
    assert (folder / "figures" / "fig6_bars.png").is_file()
    sentences = " ".join(read_table(folder / "findings.csv")["sentence"])
    assert "xsum" in sentences
    assert "hellaswag_endings" not in sentences


def test_a_table_of_another_study_is_recognised_by_its_rows(folder, tmp_path, monkeypatch):
    other = tmp_path / "other"
    monkeypatch.setenv("base_dir", str(other))
    other.mkdir()
    text = TEXT.replace("  hellaswag_endings: {epochs: 3, lr: 1e-3}\n", "").replace(
        "openbookqa, hellaswag, boolq", "boolq"
    )
    produce_tables.main(produce_tables.Args(write_study(other, num_items=9, text=text)))
    made = paths.results_dir("simulated")
    shutil.copy(made / PERFORMANCE, folder)
    results = load_results(folder)
    assert results.is_replaced
    assert results.tables.performance.equals(read_tables(made).performance)
    assert results.tables.suites.empty
    assert "hellaswag_endings" not in set(results.tables.differences["series"])
    shutil.copy(made / SUITES, folder)
    assert load_results(folder).tables.suites.equals(read_tables(made).suites)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "expected a CSV table, found none"),
        (b"\xff\xfe\x00", "UTF-16, not UTF-8"),
        (b"model_id,eval dataset,Performance\na,b,1\na,b,1,2\n", "expected a CSV table, found none"),
        (b"model_id,series\na,b\n", "no column eval dataset, Performance"),
        (b"model_id,series,Performance\na,b,much\n", "make it again"),
    ],
)
def test_what_is_no_table_is_refused(folder, content, problem):
    (folder / PERFORMANCE).write_bytes(content)
    with pytest.raises(UserError, match=rf"all_perf_table\.csv: .*{problem}"):
        load_results(folder)


def test_suites_alone_are_refused(folder, released):
    shutil.copy(released / SUITES, folder)
    with pytest.raises(UserError, match=r"official_eval_table\.csv was replaced, and .*replace both"):
        load_results(folder)


@pytest.mark.slow
def test_the_notebook_draws_a_replaced_table(folder, released, monkeypatch):
    shutil.copy(released / PERFORMANCE, folder)
    monkeypatch.setenv("results_folder", str(folder))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    notebook.cells = [code[0], code[-1], nbformat.v4.new_code_cell("print(*sorted(set(tables.levels['series'])))")]
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    series = notebook.cells[-1].outputs[0]["text"].split()
    assert {"base", "mnli", "xsum"} <= set(series)
    assert "hellaswag_endings" not in series


@pytest.mark.slow
def test_the_page_of_a_replaced_table_is_made_in_the_released_results(folder, released):
    shutil.copy(released / PERFORMANCE, folder)
    report.main(report.Args(released=folder))
    assert set(read_tables(paths.results_dir("released")).performance["family"]) == {"olmo1b"}
    assert read_tables(paths.results_dir("released")).suites.empty
