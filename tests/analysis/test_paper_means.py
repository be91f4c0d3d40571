"""Every bar of figures 3, 6 and 7 and both change tables, beside the same numbers computed from the released tables by
model name. The environment variable released_tables adds the authors' own tables."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from released_tables import SOURCES, base_id, tables_of, tuned_id

from analysis.figures.interactive import interactive_figures
from analysis.figures.paper_bars import other_domains
from analysis.figures.study_figures import build_grids, draw_figure
from analysis.figures.style import COLOURS
from analysis.inference.result_tables import build_tables, with_summaries
from analysis.tables.frames import select, stacked, where
from analysis.tables.gathering import gather_released
from analysis.tables.paper_means import paper_means

CLASSIFIED, GENERATED = ("mnli", "paws"), ("xsum", "socialiqa")
OWN = {"mnli": "mnli_matched", "paws": "paws", "xsum": "xsum", "socialiqa": "socialiqa"}
FINE_TUNING = [*((OWN[name], name) for name in OWN), ("mnli_mismatched", "mnli"), ("xlsum", "xsum"), ("boolq", "tulu")]
PRE_TRAINING = [
    (name, "tulu") for name in ("sciq", "sciq", "hellaswag", "arc_challenge", "arc_easy", "openbookqa")
]  # SciQ twice, as in the authors' notebook
DOMAINS = {
    "question generation": [("sciq", "socialiqa"), ("tweetqa", "socialiqa")],
    "summarization": [("cnn", "xsum")],
    "inference": [("rte", "mnli"), ("gpt3nli", "mnli")],
    "paraphrase": [("qqp", "paws"), ("stsb", "paws")],
}
EXPECTED = {
    ("3", "learned in fine-tuning"): FINE_TUNING,
    ("3", "learned in pre-training"): PRE_TRAINING,
    ("6", "classification to generation"): [(OWN[b], a) for a in CLASSIFIED for b in GENERATED],
    ("6", "generation to classification"): [(OWN[b], a) for a in GENERATED for b in CLASSIFIED],
    ("7", "all pairs"): [pair for pairs in DOMAINS.values() for pair in pairs],
    **{("7", name): pairs for name, pairs in DOMAINS.items()},
}


STEP = "pre-training step"


class Scores:
    """Scores by the names of the released tables."""

    def __init__(self, folder: Path):
        performance, suites = (pd.read_csv(folder / f"{name}_table.csv") for name in ("all_perf", "official_eval"))
        self.performance, self.suites = (
            dict(zip(zip(table["model_id"], table["eval dataset"], strict=True), table["Performance"], strict=True))
            for table in (performance, suites)
        )
        self.std = dict(
            zip(zip(performance["model_id"], performance["eval dataset"], strict=True), performance["std"], strict=True)
        )
        steps = {name.split("-")[1] for name, _ in self.suites if name.startswith("checkpoint-")}
        self.checkpoints = [*sorted((step for step in steps if step.isdigit()), key=int), "main"]

    def pair(self, eval_set: str, train_set: str, checkpoint: str) -> tuple[float, float]:
        """Base and fine-tuned; KeyError where one is missing."""
        if train_set == "tulu":
            base = "olmo1b_original_hf" if checkpoint == "main" else f"checkpoint-{checkpoint}"
            return self.suites[base, eval_set], self.suites[tuned_id(checkpoint, train_set, 0), eval_set]
        return (
            self.performance[base_id(checkpoint), eval_set],
            self.performance[tuned_id(checkpoint, train_set), eval_set],
        )

    def of(self, pairs, checkpoint) -> np.ndarray | None:
        """(pairs, 2), or None where a pair is missing."""
        try:
            return np.array([self.pair(*pair, checkpoint) for pair in pairs])
        except KeyError:
            return None

    def change(self, pairs, checkpoint) -> float:
        found = self.of(pairs, checkpoint)
        return np.nan if found is None else float(np.mean(found[:, 1] - found[:, 0]))

    def over_checkpoints(self, pairs) -> float:
        return float(np.mean([self.change(pairs, checkpoint) for checkpoint in self.checkpoints]))


@pytest.fixture(scope="module", params=SOURCES)
def released(request, tmp_path_factory):
    """(scores by name, the tables made from them)"""
    folder = tables_of(request.param, tmp_path_factory.mktemp("base") / "tables")
    return Scores(folder), with_summaries(build_tables(gather_released(folder)))


@pytest.mark.parametrize(("figure", "group"), EXPECTED)
def test_means_over_the_papers_pairs_are_those_of_the_released_scores(released, figure, group):
    scores, tables = released
    pairs = EXPECTED[figure, group]
    rows = select(tables.paper_means, figure=figure, group=group).set_index("checkpoint")
    assert rows.index.tolist() == [*scores.checkpoints, "all"]
    assert set(rows["pairs"]) == {len(pairs)}
    changes = [scores.change(pairs, checkpoint) for checkpoint in scores.checkpoints]
    found = rows["mean raw change"].to_numpy(float)
    assert found == pytest.approx([*changes, scores.over_checkpoints(pairs)], nan_ok=True)
    assert rows["missing"].isna().tolist() == (~np.isnan(found)).tolist()
    for checkpoint in scores.checkpoints:
        both = scores.of(pairs, checkpoint)
        if both is not None:
            relative = np.mean((both[:, 1] - both[:, 0]) / both[:, 0])
            assert rows.loc[checkpoint, "mean relative change as published"] == pytest.approx(relative)
    is_degenerate = rows["degenerate changes"].fillna(0) > 0
    assert rows.loc[is_degenerate, "mean relative change"].isna().all()
    # The authors' step of main is 750,000.
    steps = np.array([750_000 if name == "main" else int(name) for name in scores.checkpoints])
    slopes = np.diff(changes) / np.diff(steps) * 100_000
    assert rows["slope per 100k steps"].to_numpy(float) == pytest.approx([np.nan, *slopes, np.nan], nan_ok=True)


def test_of_several_numbers_of_exemplars_the_papers_is_taken(released):
    _, tables = released
    plain = where(tables.levels, tables.levels["setting"] == tables.levels["eval_set"])
    suites, sets = (where(plain, (plain["kind"] == "suite") == is_suite) for is_suite in (True, False))
    several = [sets.assign(setting=sets["setting"] + f" {shots} shots") for shots in (0, 4)]
    several[0]["Performance"] /= 2
    found = paper_means(replace(tables, levels=stacked(suites, *several)))
    assert len(found) == len(tables.paper_means) > 0
    assert found["mean raw change"].to_numpy(float) == pytest.approx(
        tables.paper_means["mean raw change"].to_numpy(float), nan_ok=True
    )


def test_an_interval_of_a_mean_is_the_mean_of_its_pairs_intervals(released):
    scores, tables = released
    (row,) = select(tables.paper_means, figure="7", group="summarization", checkpoint="main").to_dict("records")
    errors = [scores.std[base_id("main"), "cnn"], scores.std[tuned_id("main", "xsum"), "cnn"]]
    half = 1.959964 * np.hypot(*errors)
    expected = scores.change([("cnn", "xsum")], "main")
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((expected - half, expected + half), rel=1e-3)
    both = select(tables.paper_means, figure="7", group="inference", checkpoint="main").iloc[0]
    halves = [
        1.959964 * np.hypot(scores.std[base_id("main"), name], scores.std[tuned_id("main", "mnli"), name])
        for name in ("rte", "gpt3nli")
    ]
    assert both["ci_high"] - both["ci_low"] == pytest.approx(2 * np.mean(halves), rel=1e-3)


def bars(tables, name):
    """For each panel: (tick label, colour) -> (height, whether it is hatched)."""
    panels = []
    for axes in draw_figure(name, tables).axes:
        labels = [label.get_text().replace("\n", " ") for label in axes.get_xticklabels()]
        found = {}
        for bar in axes.patches:
            is_hatched = bar.get_hatch() is not None
            colour = to_hex(bar.get_edgecolor() if is_hatched else bar.get_facecolor())
            place = labels[round(bar.get_x() + bar.get_width() / 2)]
            found[place, colour.upper()] = (bar.get_height(), is_hatched)
        panels.append(found)
    return panels


@pytest.mark.parametrize(
    ("name", "panel", "groups"),
    [
        ("fig3_bars", 0, ["learned in fine-tuning", "learned in pre-training"]),
        ("fig6_bars", 0, ["classification to generation", "generation to classification"]),
        ("fig7_bars", 0, ["all pairs"]),
    ],
)
def test_bars_over_checkpoints_have_the_height_of_the_released_changes(released, name, panel, groups):
    scores, tables = released
    found = bars(tables, name)[panel]
    expected = {}
    for colour, group in zip(COLOURS, groups, strict=False):
        for checkpoint in scores.checkpoints:
            change = scores.change(EXPECTED[name[3], group], checkpoint)
            if not np.isnan(change):
                label = checkpoint if checkpoint == "main" else f"{int(checkpoint) // 1000}k"
                expected[label, colour.upper()] = change
    assert {place: height for place, (height, _) in found.items()} == pytest.approx(expected)


def test_bars_over_families_have_the_height_of_the_released_changes_and_constant_gold_is_hatched(released):
    scores, tables = released
    found = {place: bar for (place, _), bar in bars(tables, "fig7_bars")[1].items()}
    expected = {name: scores.over_checkpoints(pairs) for name, pairs in DOMAINS.items()}
    assert {place: height for place, (height, _) in found.items()} == pytest.approx(expected)
    (figure,) = interactive_figures({"fig7_bars": other_domains(tables)}, tables)
    page = figure["panels"][1]
    assert [axes.get_xlabel() for axes in draw_figure("fig7_bars", tables).axes] == [STEP, "family of tasks"]
    assert page["bars"]
    assert dict(zip(page["checkpoints"], page["curves"][0]["y"], strict=True)) == pytest.approx(expected)
    assert found["paraphrase"][1]  # the gold of qqp and stsb is constant
    assert not found["question generation"][1]


def test_tables_without_the_papers_pairs_have_no_such_figures(released):
    _, tables = released
    frames = ("performance", "suites", "levels", "differences")
    of_bases = replace(tables, **{name: select(getattr(tables, name), train_set=None) for name in frames})
    assert paper_means(of_bases).empty
    names = {"fig3_bars", "fig6_bars", "fig7_bars"}
    assert names.isdisjoint(build_grids(replace(of_bases, paper_means=paper_means(of_bases))))
    assert names <= build_grids(tables).keys()
