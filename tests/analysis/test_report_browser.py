"""The report in a browser: Debian's chromium, or the program that the environment variable chromium names."""

import os
import shutil

import pytest
from released_tables import write_released
from simulated_study import WITH_RUNS, write_study

from analysis import report
from analysis.figures.study_figures import FIGURES
from open_instruct.common import paths

CHROMIUM = os.environ.get("chromium") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: the report is NOT tested in a browser"),
]


@pytest.fixture(scope="module")
def file(reported):
    return reported / "results" / "simulated" / "report.html"


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: the report is NOT tested")
    with playwright.sync_playwright() as engine:
        made = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def opened(browser, file):
    """(page, errors and warnings, requests other than for the file itself)"""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    problems, requests = [], []
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(file.as_uri())
    yield page, problems, [url for url in requests if url != file.as_uri() and not url.startswith(("data:", "blob:"))]
    page.close()


@pytest.fixture(scope="module")
def file_of_runs(tmp_path_factory, run_report):
    """The report of three pre-training runs."""
    base_dir = tmp_path_factory.mktemp("runs")
    text = WITH_RUNS.replace("[0, 20, 60, 150, 300]", "[0, 20, 60]").replace("  rte: {}\n  mrpc: {}\n", "")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("base_dir", str(base_dir))
        write_study(base_dir, num_items=8, text=text)
    run_report(base_dir, hash_seed="1")
    return base_dir / "results" / "simulated" / "report.html"


def test_every_run_is_a_line_without_points_and_is_hidden_with_its_curve(browser, file_of_runs):
    page = browser.new_page()
    page.goto(file_of_runs.as_uri())
    figure = page.locator("#fig3_own_task")
    lines, points = figure.locator(".scatterlayer path.js-line"), num_points(page, "fig3_own_task")
    # Two tasks, two metrics; base and fine-tuned have three runs and their mean over three checkpoints.
    assert lines.count() == 4 * 2 * (3 + 1)
    assert points == 4 * 2 * 3
    assert "Thin lines are single pre-training runs." in figure.inner_text()
    page.locator(".controls summary").press("Enter")
    page.locator("#series input[value='base']").press("Space")
    assert lines.count() == 4 * (3 + 1)
    page.close()


def num_points(page, figure):
    return page.locator(f"#{figure} .scatterlayer .points path").count()


def test_every_figure_is_drawn_and_no_request_leaves_the_page(opened):
    page, problems, requests = opened
    page.evaluate("document.querySelectorAll('details.figure').forEach(d => d.open = true)")
    page.wait_for_function("[...document.querySelectorAll('.plot')].every(box => box.dataset.drawn)")
    of_one_size = [name for name, figure in FIGURES.items() if not figure.table and name != "fig13_gain_by_size"]
    for name in of_one_size:
        assert num_points(page, name) > 0, name
    assert problems == []
    assert requests == []


def test_bars_have_the_names_of_checkpoints_and_families(browser, tmp_path, monkeypatch):
    monkeypatch.setenv("base_dir", str(tmp_path))
    report.main(report.Args(released=write_released(tmp_path / "tables")))
    page = browser.new_page()
    page.goto((paths.results_dir("released") / "report.html").as_uri())
    page.evaluate("document.querySelectorAll('details.figure').forEach(d => d.open = true)")
    page.wait_for_function("[...document.querySelectorAll('.plot')].every(box => box.dataset.drawn)")
    bars = page.locator("#fig7_bars")
    assert bars.locator(".barlayer .point path").count() == 4 + 4
    texts = bars.locator(".xtick text").all_text_contents()
    assert texts == ["1k", "18k", "342k", "main", "question generation", "summarization", "inference", "paraphrase"]
    assert bars.locator(".xtitle").all_text_contents() == ["pre-training step", "family of tasks"]
    page.close()


def test_a_curve_can_be_hidden_by_keyboard(opened):
    page, problems, _ = opened
    before = num_points(page, "fig3_own_task")
    page.locator(".controls summary").press("Enter")
    page.locator("#series input[value='base']").press("Space")
    # Two tasks, two metrics, three checkpoints of the base model.
    assert num_points(page, "fig3_own_task") == before - 2 * 2 * 3
    assert problems == []


def test_axis_can_be_in_tokens_and_logarithmic(opened):
    page, problems, _ = opened
    page.locator("#axis").select_option("tokens")
    page.locator("#log").check()
    figure = page.locator("#fig8_heldout_text")
    assert "pre-training tokens (log)" in figure.inner_text()
    # 20 steps of 4,194,304 tokens.
    assert "83.9M" in figure.inner_text()
    assert problems == []


def test_table_rows_can_be_filtered_and_sorted(opened):
    page, problems, _ = opened
    table = page.locator("table.data", has=page.locator("th", has_text="Performance")).first
    search = page.locator("p:has(+ .scroll table[data-file='levels.csv']) input")
    total = table.locator("tbody tr").count()
    search.fill("socialiqa base")
    visible = table.locator("tbody tr:visible")
    assert 0 < visible.count() < total
    assert all("base" in text and "socialiqa" in text for text in visible.all_inner_texts())
    table.locator("th button", has_text="Performance").press("Enter")
    cells = [float(c.get_attribute("data-value")) for c in visible.locator("td:nth-child(5)").all()]
    assert cells == sorted(cells)
    assert problems == []


def test_print_has_every_figure_and_the_first_rows_of_each_table(opened):
    page, problems, _ = opened
    page.emulate_media(media="print")
    before = rows_of_tables(page)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".plot:not([data-drawn])").count() == 0
    assert rows_of_tables(page) == [min(count, 40) for count in before]
    assert max(before) > 40
    assert "more rows, in paired_differences.csv" in page.locator(".cut-note").last.inner_text()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert rows_of_tables(page) == before
    assert page.locator(".cut-note").count() == 0
    assert problems == []


def rows_of_tables(page):
    """Number of visible rows of each table."""
    visible = "table => [...table.tBodies[0].rows].filter(row => row.getClientRects().length).length"
    return page.evaluate(f"[...document.querySelectorAll('table.data')].map({visible})")


def test_a_dark_curve_is_lighter_on_a_dark_page(browser, file):
    page = browser.new_page(color_scheme="dark")
    page.goto(file.as_uri())
    drawn = page.locator("#fig5_task_format .scatterlayer path.js-line").first.evaluate("line => line.style.stroke")
    # #332288 (51, 34, 136), mixed with 55% white.
    assert drawn == "rgb(163, 156, 201)"
    page.close()


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_nothing_is_wider_than_the_window(browser, file, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.goto(file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    ink = page.evaluate("getComputedStyle(document.querySelector('#fig3_own_task .xtick text')).fill")
    assert ink == ("rgb(232, 232, 232)" if scheme == "dark" else "rgb(27, 27, 27)")
    page.close()
