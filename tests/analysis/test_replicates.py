"""Runs of another architecture are no replicates, and those of one architecture stay replicates of each other."""

import pytest

from analysis.tables.replicates import RUN, families_by_architecture, label_replicates, replicates_of

RUNS = ("a", "b", "c", "d")


def labelled(architectures):
    known = {("toy", run): architecture for run, architecture in zip(RUNS, architectures, strict=True)}
    rows = [{"family": "toy", "run": run, "train_set": None, "seed": None} for run in RUNS]
    rows = [row | {"series": f"{row['family']} base"} for row in families_by_architecture(rows, known)]
    return label_replicates(rows, {"toy": set(RUNS)})


def test_the_architecture_of_most_runs_keeps_its_replicates(capsys):
    rows = labelled("XXXY")
    assert [(row["unit"], row["replicate"]) for row in rows] == [(RUN, "a"), (RUN, "b"), (RUN, "c"), (None, "")]
    expected = {"toy base": (RUN, ("a", "b", "c")), "toy d base": (None, ("",))}
    assert replicates_of(rows, {"toy": set(RUNS)}) == expected
    assert "runs of toy are no replicates, as their architecture is another: d" in capsys.readouterr().out


@pytest.mark.parametrize("architectures", ["XXYY", "WXYZ"])
def test_where_no_architecture_has_most_runs_none_is_another_ones_replicate(architectures):
    rows = labelled(architectures)
    assert {row["family"] for row in rows} == {f"toy {run}" for run in RUNS}
    assert {row["unit"] for row in rows} == {None}


def test_an_absent_run_of_the_same_architecture_is_still_expected():
    rows = [row for row in labelled("XXXY") if row["run"] != "b"]
    assert replicates_of(rows, {"toy": set(RUNS)})["toy base"] == (RUN, ("a", "b", "c"))
