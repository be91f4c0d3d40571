"""results/analysis changes by scripts/release_results.sh only; everything that a study writes is ignored by git."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from analysis import compare_paper, findings, plotting, run_notebook
from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.paths import RELEASED_RESULTS, REPOSITORY
from open_instruct.study.loading import load_study
from open_instruct.study.plan import all_jobs

TINY = REPOSITORY / "scripts" / "studies" / "tiny.yaml"
TRACKED = ("all_perf_table.csv", "figures/fig2_base_models.png", "findings.json", "missing.csv")


def ignored(names: list[str]) -> set[str]:
    command = ["git", "-C", str(REPOSITORY), "check-ignore", "--no-index", "--stdin"]
    return set(subprocess.run(command, input="\n".join(names), capture_output=True, text=True).stdout.split("\n"))


def test_git_ignores_every_output_of_the_quickstart(monkeypatch):
    monkeypatch.setenv("base_dir", str(REPOSITORY))
    outputs = [str(path) for job in all_jobs(load_study(TINY)) for path in job.outputs]
    assert len(outputs) > 100
    assert set(outputs) - ignored(outputs) == set()


def test_git_tracks_the_released_results():
    names = [f"results/analysis/{name}" for name in TRACKED]
    assert ignored(names).isdisjoint(names)


@pytest.mark.parametrize(
    "choose",
    [
        lambda: paths.results_dir("analysis"),
        lambda: findings.main(findings.Args(folder=RELEASED_RESULTS)),
        lambda: plotting.main(plotting.Args(folder=RELEASED_RESULTS)),
        lambda: compare_paper.main(compare_paper.Args(RELEASED_RESULTS, folder=RELEASED_RESULTS)),
        lambda: run_notebook.main(run_notebook.Args(folder=RELEASED_RESULTS)),
    ],
    ids=["results_dir", "findings", "plotting", "compare_paper", "run_notebook"],
)
def test_released_results_are_not_written_by_an_analysis_script(choose):
    with pytest.raises(UserError, match=r"only scripts/release_results\.sh writes"):
        choose()


@pytest.fixture
def clone(tmp_path):
    """A repository with two released files and one that git does not track, and the complete results of `mine`."""
    shutil.copytree(REPOSITORY / "scripts", tmp_path / "scripts")
    for name in ("missing.csv", "figures/gone.png"):
        write(tmp_path / "results" / "analysis" / name, "old")
    for command in (["init", "-q"], ["add", "results/analysis"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True, env=without_git_variables())
    write(tmp_path / "results" / "analysis" / "notes.txt", "the user's own")
    mine = tmp_path / "results" / "mine"
    tables = ("all_perf_table", "official_eval_table", "levels", "paired_differences", "variation", "change_summary")
    tables += ("group_summary", "provenance")
    names = [f"{name}.csv" for name in (*tables, "missing", "findings")]
    for name in (*names, "measurements.parquet", "findings.json"):
        write(mine / name, "model_id,reason\n")
        write(mine / f"{name}.meta.json", "{}")
    for name in ("figures/fig2.png", "figures/fig2.pdf", "figures/meta.json", "report.html", "gen_paper_figs.ipynb"):
        write(mine / name, "new")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def without_git_variables() -> dict[str, str]:
    """In a hook of git, they name the repository of the hook."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


def release(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in without_git_variables().items() if name != "base_dir"}
    command = ["bash", str(clone / "scripts" / "release_results.sh"), *arguments]
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True)


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_release_has_tables_findings_and_figures_and_no_older_file(clone):
    done = release(clone, "mine")
    assert done.returncode == 0, done.stderr
    mine = files(clone / "results" / "mine")
    kept = {name: text for name, text in mine.items() if not name.endswith(("meta.json", ".html", ".ipynb"))}
    assert files(clone / "results" / "analysis") == kept | {"notes.txt": "the user's own"}
    assert len(kept) == 14
    changes = done.stdout.splitlines()[:-1]
    assert {"removed: figures/gone.png", "changed: missing.csv", "new:     figures/fig2.png"} < set(changes)
    again = release(clone, "mine")
    assert again.stdout.endswith("has the 14 files of study mine; 14 were the same before\n")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mine", lambda folder: write(folder / "missing.csv", "model_id\na\n"), "lists 1 missing measurements"),
        (
            "mine",
            lambda folder: (folder / "findings.json.meta.json").unlink(),
            "findings.json is missing or unfinished",
        ),
        ("mine", lambda folder: (folder / "figures" / "meta.json").unlink(), "figures is missing or unfinished"),
        ("mine", lambda folder: os.utime(folder / "paired_differences.csv"), "findings.json is older than the tables"),
        ("mine", lambda folder: write(folder.parent / "analysis/findings.csv", "own"), "is not tracked by git"),
        ("other", lambda folder: None, "no folder"),
        ("../mine", lambda folder: None, "expected the name of one study"),
        ("analysis", lambda folder: None, "expected the name of a study"),
    ],
    ids=[
        "missing measurements",
        "no findings",
        "no figures",
        "old findings",
        "a file of the user's",
        "no study",
        "a path",
        "itself",
    ],
)
def test_an_incomplete_study_is_not_released(clone, name, change, message):
    change(clone / "results" / "mine")
    before = files(clone / "results" / "analysis")
    done = release(clone, name)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert files(clone / "results" / "analysis") == before
