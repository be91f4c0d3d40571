"""Models of several families: one axis of tokens, and the figure of the gain against size and tokens."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from simulated_study import write_metrics

from analysis import plotting, produce_tables
from analysis.figures.drawing import draw, legend_of
from analysis.figures.panels import Curve, Panel
from analysis.figures.size_grid import labels_of, shared_name
from analysis.figures.study_figures import build_grids, caption_of, draw_figure
from analysis.figures.style import style_of
from analysis.figures.token_axis import in_tokens, matched, on_axis
from analysis.tables.columns import Comparison
from analysis.tables.frames import read_tables, select
from eval.metrics.aggregation import TOP_PREDICTION
from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.study.loading import load_study

FIGURE = "fig13_gain_by_size"
SMALL, LARGE = "pythia-70m", "datadecide-c4-150M"
# Steps are of 2,097,152 and 393,216 tokens: 512 and 2731 steps are equal within 0.02%, two times 1000 steps are not.
STUDY = f"""\
name: sizes
families:
  {SMALL}: {{steps: [0, 512, 1000], runs: [seed1, seed2, seed3]}}
  {LARGE}: {{steps: [0, 1000, 2731], runs: [default, small-aux-2]}}
train_sets: {{mnli: {{epochs: 3, lr: 1e-3}}}}
evaluation: {{mnli_matched: {{}}}}
"""


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """The model of one run of the larger size that was fine-tuned from step 1000 gives one answer."""
    base_dir = tmp_path_factory.mktemp("sizes")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("base_dir", str(base_dir))
        (base_dir / "sizes.yaml").write_text(STUDY)
        study = load_study(base_dir / "sizes.yaml")
        for variant in study.variants():
            write_metrics(study, variant, "mnli_matched", "default", num_items=40, effect=1.0)
        (path,) = (base_dir / "output" / "predictions").glob(f"*{LARGE}_default_hf_ckpt1000_mnli*.metrics.json")
        content = json.loads(path.read_text())
        content["metrics"][TOP_PREDICTION] = content["metrics"]["accuracy"] | {"mean": 0.99}
        path.write_text(json.dumps(content))
        produce_tables.main(produce_tables.Args(base_dir / "sizes.yaml"))
        yield read_tables(paths.results_dir("sizes"))


def curves_of(tables, metric):
    grid = build_grids(tables)[FIGURE]
    (panel,) = [panel for row in grid for panel in row if metric in panel.y_label]
    return panel.curves


def changes_of(tables, family, metric):
    rows = select(tables.differences, comparison=Comparison.CHANGE, family=family, metric=metric)
    return {name: row for name, row in zip(rows["checkpoint"], rows.to_dict("records"), strict=True) if name != "0"}


def test_each_size_is_a_curve_over_its_tokens(tables):
    small, large = curves_of(tables, "bits per byte")
    assert [small.label, large.label] == [f"70.4M, {SMALL}", f"190M, {LARGE}"]
    assert list(small.rows["tokens"]) == [512 * 2_097_152, 1000 * 2_097_152]
    assert list(large.rows["tokens"]) == [1000 * 393_216, 2731 * 393_216]
    for curve, family in ((small, SMALL), (large, LARGE)):
        expected = [row["difference"] for row in changes_of(tables, family, "bits_per_byte").values()]
        assert list(curve.rows["difference"]) == pytest.approx(expected)


def test_larger_sizes_are_lighter_and_come_later_in_the_legend(tables):
    curves = curves_of(tables, "bits per byte")
    light = [sum(int(curve.style.colour[i : i + 2], 16) for i in (1, 3, 5)) for curve in curves]
    assert light[0] < light[1]
    assert legend_of(curves[::-1])[1] == [curve.label for curve in curves]
    made = style_of(["1B", "900M", "4M"])
    rows = pd.DataFrame({"checkpoint": ["1"], "Performance": [0.5]})
    assert legend_of([Curve(name, style, rows) for name, style in made.items()])[1] == ["4M", "900M", "1B"]


def test_intervals_are_over_runs_where_there_are_three_and_else_over_items(tables):
    small, large = curves_of(tables, "bits per byte")
    for curve, family in ((small, SMALL), (large, LARGE)):
        for found, row in zip(
            curve.rows.to_dict("records"), changes_of(tables, family, "bits_per_byte").values(), strict=True
        ):
            half = 1.959964 * row["item_error"]
            expected = (row["difference"] - half, row["difference"] + half)
            if family == SMALL:
                expected = row["ci_low"], row["ci_high"]
            assert (found["ci_low"], found["ci_high"]) == pytest.approx(expected, rel=1e-5)
    caption = caption_of(FIGURE, build_grids(tables)[FIGURE])
    assert f"over 3 pre-training runs and items (70.4M, {SMALL})" in caption
    assert f"over items only: 2 pre-training runs (190M, {LARGE})" in caption


def test_a_model_with_one_answer_is_hollow_and_without_an_interval(tables):
    small, large = curves_of(tables, "accuracy")
    assert small.hollow == frozenset()
    (at_1000,) = [row for row in large.rows.to_dict("records") if row["checkpoint"] in large.hollow]
    assert at_1000["tokens"] == 1000 * 393_216
    assert np.isfinite(at_1000["difference"])
    assert np.isnan(at_1000["ci_low"])
    axes = draw_figure(FIGURE, tables).axes[0]
    assert [line.get_markerfacecolor() for line in axes.get_lines()].count("white") == 1
    assert axes.get_xscale() == "log"


def test_a_study_of_one_size_has_no_such_figure(tables):
    parts = {name: frame for name, frame in vars(tables).items() if "family" in frame}
    one = replace(tables, **{name: select(frame, family=SMALL) for name, frame in parts.items()})
    assert FIGURE not in build_grids(one)
    assert [text.get_text() for axes in draw_figure(FIGURE, one).axes for text in axes.texts] == ["not measured"]


@pytest.mark.parametrize(
    ("families", "shared", "labels"),
    [
        (["pythia-70m", "pythia-1b"], ("pythia-", ""), ["70M", "1B"]),
        (["pythia-1b", "pythia-1b-deduped"], ("pythia-", ""), ["1B", "2, 1b-deduped"]),
        (
            ["datadecide-dclm-baseline-50p-dolma1.7-50p-4M", "datadecide-dclm-baseline-50p-dolma1.7-50p-150M"],
            ("datadecide-dclm-baseline-50p-dolma1.7-50p-", ""),
            ["4M", "150M"],
        ),
        (["datadecide-c4-1B", "datadecide-falcon-1B"], ("datadecide-", "-1B"), ["1, c4", "2, falcon"]),
        (["olmo2_1b", "olmo2_1b stage2"], ("olmo2_", ""), ["1B", "2, 1b stage2"]),
        (["olmo1b", "pythia-1b"], ("", ""), ["1, olmo1b", "2, pythia-1b"]),
    ],
)
def test_a_label_is_what_tells_a_family_from_the_others(families, shared, labels):
    assert shared_name(families) == shared
    assert list(labels_of(families, {name: i for i, name in enumerate(families, 1)}).values()) == labels


def test_tokens_that_are_equal_within_one_percent_are_one_place_of_different_families_only():
    tokens = {("a", "100"): 1000, ("b", "7"): 1009, ("b", "8"): 1011, ("a", "101"): 1010, ("c", "1"): 1100}
    assert matched(tokens) == {
        ("a", "100"): 1000,
        ("b", "7"): 1000,
        ("a", "101"): 1010,
        ("b", "8"): 1010,
        ("c", "1"): 1100,
    }


def test_families_with_other_batch_sizes_are_shown_by_tokens(tables):
    shown, axis = on_axis(tables)
    assert axis == "tokens"
    places = {
        (row["family"], row["step"]): row["checkpoint"] for row in shown.performance.to_dict("records") if row["step"]
    }
    assert places[SMALL, 512] == places[LARGE, 2731]
    assert places[SMALL, 1000] != places[LARGE, 1000]
    assert on_axis(shown) == (shown, "step")  # they are named by their tokens already
    with pytest.raises(UserError, match=r"and 1,073,741,824 tokens after 512 steps of pythia-70m: .* --axis tokens"):
        on_axis(tables, "step")


def test_one_family_is_shown_by_steps_and_tokens_that_are_not_known_are_refused(tables):
    parts = {name: frame for name, frame in vars(tables).items() if "family" in frame}
    one = replace(tables, **{name: select(frame, family=SMALL) for name, frame in parts.items()})
    assert on_axis(one) == (one, "step")
    scores = tables.performance
    unknown = replace(tables, performance=scores.assign(tokens=scores["tokens"].where(scores["family"] == SMALL)))
    assert on_axis(unknown) == (unknown, "step")
    with pytest.raises(UserError, match=f"the tokens of {LARGE} are not known"):
        on_axis(unknown, "tokens")


def test_checkpoints_of_another_family_are_no_gap_and_not_missing(tables):
    grid = build_grids(on_axis(tables)[0])["appendix_b_bits_per_byte"]
    (panel,) = [panel for row in grid for panel in row]
    assert len(panel.checkpoints) > 3
    axes = draw([[panel]], title="").axes[0]
    assert len(axes.texts) == 0
    lines = [line.get_ydata() for line in axes.get_lines() if line.get_marker() not in ("None", "_", "|")]
    assert [len(values) for values in lines] == [3, 3, 3, 3]
    assert all(np.isfinite(values).all() for values in lines)


def test_a_checkpoint_that_its_own_family_lacks_is_a_gap_and_named():
    rows = pd.DataFrame({"checkpoint": ["1", "4"], "Performance": [0.1, 0.4]})
    own = Curve("own", style_of(["own"])["own"], rows, expected=frozenset("124"))
    axes = draw([[Panel("", "", [own], ["1", "2", "3", "4"])]], title="").axes[0]
    assert [text.get_text() for text in axes.texts] == ["not measured: own 2"]
    (line,) = axes.get_lines()
    assert np.isnan(line.get_ydata()).tolist() == [False, True, False]


def test_figures_of_a_study_are_drawn_by_tokens_without_being_told(tables, tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(plotting, "write_figures", lambda grids, *arguments, **options: seen.update(options))
    monkeypatch.setattr(plotting, "load_results", lambda folder: (tables, {}, False))
    monkeypatch.setattr(plotting, "existing_results", lambda study, folder: tmp_path)
    plotting.main(plotting.Args())
    assert seen["axis"] == "tokens"


def test_tokens_name_every_table(tables):
    tokens = {(SMALL, "512"): 512 * 2_097_152}
    shown = in_tokens(tables, tokens)
    for frame in (shown.performance, shown.levels, shown.differences):
        assert str(512 * 2_097_152) in set(select(frame, family=SMALL)["checkpoint"])
        assert "512" not in set(select(frame, family=SMALL)["checkpoint"])
