"""A study with the scores of the released tables, plus noise and a shift on one set; see test_released.py."""

from dataclasses import replace

import pandas as pd
import pytest
from released_tables import CONSTANT, SOURCES, tables_of, write_own_like, write_released

from analysis import compare_paper, produce_tables
from analysis.compare_paper import Args
from analysis.inference.paper_comparison import judge_numbers, of_released_family
from analysis.inference.result_tables import build_tables
from analysis.tables.gathering import gather_released
from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.sidecars import read_sidecar

SHIFT = 0.08


@pytest.fixture(scope="module", params=SOURCES)
def compared(request, tmp_path_factory):
    """(folder of the released tables, name -> table written)"""
    base_dir = tmp_path_factory.mktemp("base")
    folder = tables_of(request.param, base_dir / "tables")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("base_dir", str(base_dir))
        assert write_own_like(folder, shifted={"xsum": SHIFT}) > 80
        produce_tables.main(produce_tables.Args())
        compare_paper.main(Args(folder))
        output = paths.results_dir("all") / "paper"
        read_sidecar(output)
        yield folder, {path.stem: pd.read_csv(path) for path in output.glob("*.csv")}


def test_every_published_row_has_a_verdict(compared):
    folder, found = compared
    names = ("all_perf_table.csv", "official_eval_table.csv", "it_perf_table.csv")
    wanted = {f"{name}:{i + 2}" for name in names for i in range(len(pd.read_csv(folder / name)))}
    assert set(found["numbers"]["published_source"]) == wanted
    assert found["numbers"]["verdict"].notna().all()


def test_shifted_scores_differ_and_the_others_agree(compared):
    _, found = compared
    numbers = found["numbers"][found["numbers"]["own"].notna() & (found["numbers"]["verdict"] != "unsound")]
    shifted = numbers[numbers["eval_set"] == "xsum"]
    assert set(shifted["verdict"]) == {"differ"}
    assert shifted["difference"].mean() == pytest.approx(SHIFT, abs=0.01)
    others = numbers[(numbers["eval_set"] != "xsum") & numbers["p_holm"].notna()]
    # The difference has your own noise only, the interval also the published one: at least 95% agree.
    assert (others["verdict"] == "agree").mean() > 0.93
    assert (others["verdict"] == "differ").sum() == 0


def test_degenerate_rows_are_listed_and_not_compared(compared):
    folder, found = compared
    published = pd.read_csv(folder / "all_perf_table.csv")
    constant = {
        f"all_perf_table.csv:{i + 2}" for i in published.index[published["eval dataset"].str.startswith(CONSTANT)]
    }
    degenerate = found["unsound"]
    assert set(degenerate.loc[degenerate["kind"] == "constant gold", "source"]) == constant
    numbers = found["numbers"][found["numbers"]["published_source"].isin(constant)]
    assert set(numbers["verdict"]) <= {"unsound", "not measured"}
    assert numbers.loc[numbers["verdict"] == "unsound", "note"].str.contains("the gold is one label").all()


def test_each_curve_counts_its_numbers(compared):
    _, found = compared
    curves, numbers = found["curves"], found["numbers"]
    assert curves["checkpoints"].sum() == numbers["own"].notna().sum()
    xsum = curves[(curves["series"] == "base") & (curves["eval dataset"] == "xsum") & (curves["shots"] == 4)].iloc[0]
    assert xsum["differ"] > 0
    assert xsum["differ"] + xsum["unsound"] == xsum["checkpoints"]
    assert 0 < xsum["ci_low"] < SHIFT < xsum["ci_high"] + 0.01


def test_a_common_shift_of_base_and_fine_tuned_scores_changes_no_claim(compared):
    _, found = compared
    assert len(found["claims"]) > 5
    assert "differ" not in set(found["claims"]["agreement"])
    assert "agree" in set(found["claims"]["agreement"])


def test_a_difference_that_is_significant_only_without_correction_is_unclear():
    rows = {"ci_low": [-1.0, 0.1, 3.0], "ci_high": [1.0, 2.0, 5.0], "p_value": [1.0, 0.03, 1e-6]}
    found = judge_numbers(pd.DataFrame(rows))
    # Of three p-values the second smallest is doubled: 0.06.
    assert found["verdict"].tolist() == ["agree", "unclear", "differ"]


def test_comparing_the_released_tables_with_themselves_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("base_dir", str(tmp_path))
    folder = write_released(tmp_path / "tables")
    produce_tables.main(produce_tables.Args(released=folder))
    with pytest.raises(UserError, match="has the released tables themselves"):
        compare_paper.main(Args(folder, folder=paths.results_dir("released")))


def test_another_family_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("base_dir", str(tmp_path))
    released = build_tables(gather_released(write_released(tmp_path / "tables")))
    elsewhere = {"family": "tiny", "source": "output/predictions/a.metrics.json"}
    own = replace(
        released, performance=released.performance.assign(**elsewhere), suites=released.suites.assign(**elsewhere)
    )
    with pytest.raises(UserError, match="found models of tiny; expected some of olmo1b"):
        of_released_family(own, tmp_path)
