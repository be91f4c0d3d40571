"""A study with the scores of the released tables, plus noise and a shift on one set; see test_released.py."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from released_tables import CONSTANT, SOURCES, tables_of, write_own_like, write_released
from scipy import stats

from analysis import compare_paper, produce_tables
from analysis.compare_paper import Args
from analysis.inference.equivalence import MARGINS
from analysis.inference.paper_comparison import COMPARED, agreement, compare, judge, of_released_family
from analysis.inference.result_tables import build_tables
from analysis.tables.frames import select
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
    others = numbers[(numbers["eval_set"] != "xsum") & numbers["p_adjusted"].notna()]
    # Published errors are at most 0.007, so that the margin of 0.02 is at least two errors of the difference away.
    assert (others["verdict"] == "agree").mean() > 0.8
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
    assert numbers[["p_value", "difference"]].notna().any().all()
    assert numbers[["p_adjusted", "p_equivalence"]].isna().all().all()


def test_each_curve_counts_its_numbers(compared):
    _, found = compared
    curves, numbers = found["curves"], found["numbers"]
    assert curves["checkpoints"].sum() == numbers["own"].notna().sum()
    xsum = curves[(curves["series"] == "base") & (curves["eval dataset"] == "xsum") & (curves["shots"] == 4)].iloc[0]
    assert xsum["differ"] > 0
    assert xsum["differ"] + xsum["unsound"] == xsum["checkpoints"]
    assert xsum["verdict"] == "differ"
    assert 0 < xsum["ci_low"] < SHIFT < xsum["ci_high"] + 0.01


def test_the_error_of_a_curves_mean_is_the_mean_error_since_checkpoints_share_the_items(compared):
    _, found = compared
    curve = found["curves"][found["curves"]["eval dataset"] == "socialiqa_instruct"].iloc[0]
    of_curve = select(found["numbers"], own_series=curve["series"], **curve[["eval dataset", "metric", "shots"]])
    used = select(of_curve, verdict=list(COMPARED))
    assert curve["std"] == pytest.approx(used["std"].mean())
    assert curve["difference"] == pytest.approx((used["own"] - used["published"]).mean())


def test_a_common_shift_of_base_and_fine_tuned_scores_changes_the_sign_of_no_effect(compared):
    _, found = compared
    claims = found["claims"]
    assert len(claims) > 5
    assert set(claims["agreement"]) <= {"same sign", "unclear"}
    assert (claims["own_effect"] - claims["published_effect"]).to_numpy() == pytest.approx(claims["difference"])


def judged(effect: float, error: float, **more) -> str:
    """Verdict of a difference among others that are certainly none."""
    p_value = 2 * stats.norm.sf(abs(effect) / error)
    rows = [
        {"difference": effect, "std": error, "df": np.inf, "p_value": p_value} | more,
        *[{"difference": 0.0, "p_value": 1.0}] * 9,
    ]
    frame = pd.DataFrame(rows).fillna({"std": 0.001, "df": np.inf}).assign(metric="accuracy", verdict=None)
    return judge(frame, {"accuracy": 0.02})["verdict"].iloc[0]


@pytest.mark.parametrize(
    ("effect", "error", "expected"),
    [
        (0.0, 0.005, "agree"),
        (0.0, 0.02, "unclear"),  # the interval covers zero, and much beyond the margin
        (0.015, 0.001, "agree"),  # certainly not zero, and certainly within the margin
        (0.019, 0.001, "unclear"),  # within the margin, but not certainly
        (0.05, 0.005, "differ"),
        (0.05, 0.02, "unclear"),  # 2.5 errors: p 0.012, and 0.12 among ten
    ],
)
def test_verdict_by_equivalence_and_false_discovery_rate(effect, error, expected):
    assert judged(effect, error) == expected


def test_an_unsound_number_is_not_judged_and_costs_the_others_nothing():
    rows = {"difference": [0.5, 0.05], "std": [0.001, 0.02], "p_value": [0.0, 0.0124], "verdict": ["unsound", None]}
    found = judge(pd.DataFrame(rows).assign(metric="rouge_l", df=np.inf), MARGINS)
    assert found["verdict"].tolist() == ["unsound", "differ"]
    assert found["p_adjusted"].tolist() == [pytest.approx(np.nan, nan_ok=True), 0.0124]


def test_a_metric_without_a_margin_is_refused_with_the_option_that_gives_one():
    rows = {
        "difference": [0.5],
        "std": [0.1],
        "p_value": [0.1],
        "verdict": [None],
        "metric": ["toxicity"],
        "df": [np.inf],
    }
    with pytest.raises(UserError, match="no margin of toxicity; add --margin toxicity="):
        judge(pd.DataFrame(rows), MARGINS)


@pytest.mark.parametrize("option", ["rouge_l", "rouge_l=wide", "rouge_l=0", "rouge_l=-0.1", "rouge_l=nan"])
def test_a_margin_that_is_no_positive_number_is_refused(option, tmp_path):
    with pytest.raises(UserError, match=re.escape(f"--margin {option}: expected METRIC=VALUE")):
        compare_paper.main(Args(tmp_path, margin=(option,)))


def test_a_margin_of_an_unknown_metric_is_refused_with_the_nearest_one():
    with pytest.raises(UserError, match=r"--margin rouge: no such metric \(did you mean rouge_l\?\)"):
        compare_paper.require_known({"rouge": 0.1, "accuracy": 0.1}, set(MARGINS))


def test_a_wider_margin_lets_more_numbers_agree(compared):
    folder, _ = compared
    released = build_tables(gather_released(folder))
    shifted = released.performance.assign(Performance=released.performance["Performance"] + 0.05)
    for margin, expected in ((0.02, "differ"), (0.2, "agree")):
        numbers = compare(replace(released, performance=shifted), released, dict.fromkeys(MARGINS, margin))["numbers"]
        verdicts = set(numbers.loc[numbers["kind"] != "suite", "verdict"])
        assert expected in verdicts
        assert verdicts <= {expected, "unclear", "unsound"}


def test_own_seeds_are_one_score_whose_error_is_over_the_seeds(tmp_path):
    released = build_tables(gather_released(write_released(tmp_path / "tables")))
    one = select(released.performance, series="xsum", setting="xsum", format="default").iloc[:1]
    scores = pd.concat(
        [one.assign(Performance=value, seed=i, source=f"{i}.json") for i, value in enumerate((0.4, 0.5))]
    )
    level = one.assign(Performance=0.45, std=0.03, df=1.0, replicates=2, unit="fine-tuning seed", n=100)
    own = replace(released, performance=scores, suites=released.suites.iloc[:0], levels=level)
    numbers = select(compare(own, released, MARGINS)["numbers"], own_series="xsum")
    row = numbers.iloc[0]
    assert len(numbers) == 1
    assert (row["own"], row["own_replicates"], row["own_source"]) == (0.45, 2, "levels.csv")
    error = np.hypot(0.03, one["std"].item())
    df = (error / 0.03) ** 4
    assert (row["std"], row["df"]) == (pytest.approx(error), pytest.approx(df))
    effect = 0.45 - one["Performance"].item()
    assert row["p_value"] == pytest.approx(2 * stats.t.sf(abs(effect) / error, df))
    assert row["ci_high"] == pytest.approx(effect + stats.t.ppf(0.975, df) * error)


def test_sign_of_an_effect_whose_interval_covers_zero_is_unclear():
    up, down, wide = ({"ci_low": low, "ci_high": low + 0.1} for low in (0.1, -0.3, -0.05))
    assert agreement(up, up) == agreement(down, down) == "same sign"
    assert agreement(up, down) == "opposite sign"
    assert agreement(up, wide) == agreement(wide, wide) == agreement(up, {"ci_low": None, "ci_high": None}) == "unclear"


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
