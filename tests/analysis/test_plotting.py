import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from simulated_study import STUDY, WITH_RUNS, write_study

from analysis import produce_tables
from analysis.figures.axis import positions, readable_ticks, short_step
from analysis.figures.drawing import PALE, draw, save
from analysis.figures.panels import Curve, Panel
from analysis.figures.study_figures import FIGURES, build_grids, caption_of, draw_figure
from analysis.figures.style import BASE_COLOUR, style_of, styles_of
from analysis.tables.columns import Comparison
from analysis.tables.frames import Tables, as_table, in_order, read_tables, select
from eval.metrics.aggregation import TOP_PREDICTION
from open_instruct.common import paths
from open_instruct.common.errors import UserError


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    base_dir = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("base_dir", str(base_dir))
        study = STUDY.replace("[0, 20, 60, 150, 300]", "[0, 20, 60]").replace("  rte: {}\n", "")
        produce_tables.main(produce_tables.Args(write_study(base_dir, num_items=8, text=study)))
        yield read_tables(paths.results_dir("simulated"))


def curve(label, checkpoints, values):
    rows = pd.DataFrame({"checkpoint": checkpoints, "Performance": values})
    rows["ci_low"], rows["ci_high"] = rows["Performance"] - 0.1, rows["Performance"] + 0.1
    return Curve(label, style_of([label])[label], rows)


def texts_of(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_the_same_figure_gives_the_same_bytes(tables, tmp_path):
    first, second = (save(draw_figure("fig8_heldout_text", tables), tmp_path / name / "figure") for name in "ab")
    assert [path.name for path in first] == ["figure.png", "figure.pdf"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.slow
def test_a_figure_without_data_states_not_measured(tables):
    empty = Tables(*(as_table([], tuple(frame.columns)) for frame in vars(tables).values()))
    for name in FIGURES:
        assert texts_of(draw_figure(name, empty)) == ["not measured"], name


def test_a_study_without_base_models_has_figures(tables):
    tuned = Tables(
        *(
            frame[frame["train_set"].notna()] if "train_set" in frame else frame
            for frame in (tables.performance, tables.suites, tables.differences, tables.missing, tables.levels)
        )
    )
    assert texts_of(draw_figure("fig2_base_models", tuned)) == ["not measured"]


def test_a_suite_of_two_settings_has_a_panel_for_each(tables):
    suites = tables.pooled.suites
    other = suites.assign(setting=suites["setting"] + " 5 items")
    twice = replace(tables, levels=pd.concat([tables.levels, other], ignore_index=True))
    titles = [axes.get_title() for axes in draw_figure("fig4_suites", twice).axes]
    assert {"boolq", "boolq 5 items"} <= set(titles)


def test_a_panel_lists_missing_checkpoints():
    panel = Panel(
        "xsum", "ROUGE-L", [curve("base", ["0", "20"], [0.1, 0.2]), curve("tuned", ["0"], [0.3])], ["0", "20"]
    )
    assert texts_of(draw([[panel]], title="")) == ["not measured: tuned 20"]


def test_a_panel_lists_the_measured_checkpoints_of_a_mostly_missing_curve():
    panel = Panel("xsum", "ROUGE-L", [curve("tuned", ["20"], [0.3])], ["0", "20", "60"])
    assert texts_of(draw([[panel]], title="")) == ["tuned measured at 20 only"]


def test_curves_of_a_panel_with_its_own_legend_are_not_in_the_figure_legend():
    about = {"title": "xsum", "y_label": "ROUGE-L", "checkpoints": ["0", "20"]}
    own = Panel(curves=[curve("own", ["0", "20"], [0.1, 0.2])], own_legend=True, **about)
    shared = Panel(curves=[curve("shared", ["0", "20"], [0.1, 0.2])], **about)
    figure = draw([[own, shared]], title="")
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["own"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["shared"]


def test_legend_labels_are_sorted_by_number():
    labels = ["noise size 0.1", "noise size 0.02", "layers.10", "layers.9"]
    panel = Panel("xsum", "ROUGE-L", [curve(label, ["0", "20"], [0.1, 0.2]) for label in labels])
    texts = [text.get_text() for text in draw([[panel]], title="").legends[0].get_texts()]
    assert texts == ["layers.9", "layers.10", "noise size 0.02", "noise size 0.1"]


def test_tick_labels_that_would_touch_are_rotated_and_none_is_left_out():
    names = ["1000", "18000", "342000", "424000", "505000", "592000", "738000", "main"]
    panel = Panel("xsum", "ROUGE-L", [curve("base", names, np.linspace(0, 1, 8))], names)
    labels = draw([[panel]], title="").axes[0].get_xticklabels()
    assert [label.get_text() for label in labels] == [short_step(name) for name in names]
    assert all(0 < label.get_rotation() < 90 for label in labels)


def test_a_missing_checkpoint_interrupts_the_line():
    panel = Panel("xsum", "ROUGE-L", [curve("base", ["0", "60"], [0.1, 0.2])], ["0", "20", "60"])
    (line, *_) = draw([[panel]], title="").axes[0].get_lines()
    assert pd.isna(list(line.get_ydata())).tolist() == [False, True, False]


def test_log_axis_includes_step_zero_and_main_comes_last():
    places = positions(["0", "20", "60", "main"], "log")
    # log(1 + step / 20): 0, log 2 and log 4, stretched over two distances; then main at one more distance.
    assert places == pytest.approx({"0": 0, "20": 1, "60": 2, "main": 3})


def test_linear_axis_is_proportional_to_the_step():
    assert positions(["0", "100", "400"], "linear") == pytest.approx({"0": 0, "100": 0.5, "400": 2})


def test_an_unknown_scale_is_refused():
    with pytest.raises(UserError, match="index, linear, log"):
        positions(["0", "20"], "cubic")


def test_tick_labels_that_would_touch_are_left_out():
    # "500k" and "738k" are four characters wide: 0.15 of the axis is enough for them, 0.1 is not.
    assert readable_ticks({"0": 0.0, "500000": 0.85, "738000": 1.0}, 1.0) == {"0", "500000", "738000"}
    assert readable_ticks({"0": 0.0, "500000": 0.9, "738000": 1.0}, 1.0) == {"0", "738000"}


def test_long_steps_are_abbreviated():
    names = ("0", "300", "1500", "738000", "3095412736", "main")
    assert [short_step(name) for name in names] == ["0", "300", "1.5k", "738k", "3.1B", "main"]


def test_token_axis_is_labelled_in_tokens(tables):
    figure = draw_figure("fig8_heldout_text", tables, axis="tokens")
    axes = figure.axes[0]
    assert axes.get_xlabel() == "pre-training tokens"
    # 2048 sequences of 2048 tokens a step: 20 steps are 83.9 million tokens.
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "83.9M", "252M"]


def test_base_models_are_black_and_every_series_has_its_own_style():
    styles = style_of([f"set{i}" for i in range(12)], base=["base"])
    assert styles["base"].colour == BASE_COLOUR
    assert len(set(styles.values())) == 13


def test_a_series_has_the_same_style_in_all_figures(tables):
    styles = styles_of(tables)
    assert set(styles) == {"base", "socialiqa", "hellaswag_endings", "qa_chat"}
    suites = draw_figure("fig4_suites", tables).axes[0].get_lines()
    assert {line.get_color() for line in suites} == {styles["base"].colour, styles["qa_chat"].colour}


@pytest.mark.slow
def test_nothing_is_drawn_outside_the_figure(tables):
    for name in FIGURES:
        figure = draw_figure(name, tables, scale="log", axis="tokens")
        figure.draw_without_rendering()
        box = figure.get_tightbbox()
        width, height = figure.get_size_inches()
        assert box.x0 >= -0.02, name
        assert box.y0 >= -0.02, name
        assert box.x1 <= width + 0.02, name
        assert box.y1 <= height + 0.02, name


@pytest.fixture(scope="module")
def of_runs(tmp_path_factory):
    """Tables of three pre-training runs; `rte` is degenerate at step 20, and its macro F1 is 0.9."""
    base_dir = tmp_path_factory.mktemp("runs")
    text = WITH_RUNS.replace("[0, 20, 60, 150, 300]", "[0, 20, 60]").replace("  mrpc: {}\n", "")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("base_dir", str(base_dir))
        study_file = write_study(base_dir, num_items=20, text=text)
        for path in (base_dir / "output" / "predictions").glob("rte_*.metrics.json"):
            content = json.loads(path.read_text())
            found = content["metrics"]["accuracy"]
            is_constant = path.name.startswith(("rte_tiny_checkpoint-20.", "rte_tiny_seed44_hf_ckpt20_socialiqa"))
            content["metrics"]["macro_f1"] = found | {"mean": 0.9, "ci_low": 0.9, "ci_high": 0.9}
            content["metrics"][TOP_PREDICTION] = found | {"mean": 0.99 if is_constant else 0.6}
            path.write_text(json.dumps(content))
        produce_tables.main(produce_tables.Args(study_file))
        return read_tables(paths.results_dir("simulated"))


def curves_of(grid, *, title, label=None):
    """Curves of the panels whose title has this part."""
    panels = [panel for row in grid for panel in row if title in panel.title]
    return [curve for panel in panels for curve in panel.curves if label in (None, curve.label)]


def test_a_curve_is_the_mean_of_its_runs_and_each_run_is_a_thin_line(of_runs):
    grid = build_grids(of_runs)["fig3_own_task"]
    for value in curves_of(grid, title="socialiqa", label="base"):
        assert len(value.each) == 3
        each = np.mean([rows["Performance"] for rows in value.each], axis=0)
        assert value.rows["Performance"].to_numpy(float) == pytest.approx(each)
    axes = draw(grid, title="").axes[0]
    thin = [line for line in axes.get_lines() if line.get_alpha() == PALE]
    assert len(thin) == 2 * 3
    assert {line.get_marker() for line in thin} == {"None"}


def test_thin_lines_of_a_change_are_fine_tuned_minus_base_of_the_same_run(of_runs):
    (change,) = curves_of(build_grids(of_runs)["fig8_heldout_text"], title="change", label="fine-tuned: socialiqa")
    scores = select(of_runs.performance, setting="heldout_text", checkpoint="60").set_index("replicate")
    expected = select(scores, series="socialiqa")["Performance"] - select(scores, series="base")["Performance"]
    found = [rows.set_index("checkpoint").loc["60", "difference"] for rows in change.each]
    assert sorted(found) == pytest.approx(sorted(expected))


def test_captions_and_notes_say_over_what_intervals_are(tables, of_runs):
    (several,), (one,) = (
        [caption_of(name, grid) for name, grid in build_grids(found).items() if name == "fig3_own_task"]
        for found in (of_runs, tables)
    )
    assert "95% intervals over 3 pre-training runs and items." in several
    assert "Thin lines are single pre-training runs." in several
    assert one.endswith("95% intervals over items only: one run.")
    legend = draw_figure("fig3_own_task", of_runs).legends[0]
    assert "over 3 pre-training runs and items" in legend.get_title().get_text().replace("\n", " ")


def test_a_model_with_one_answer_in_any_run_is_hollow_and_named(of_runs):
    grids = build_grids(of_runs)
    hollow = {curve.label: curve.hollow for curve in curves_of(grids["appendix_a_scores"], title="rte")}
    assert hollow["base"] == {"20"}
    assert hollow["fine-tuned: socialiqa"] == {"20"}
    assert hollow["fine-tuned: qa_chat"] == frozenset()
    figure = draw(grids["appendix_a_scores"], title="")
    axes = next(axes for axes in figure.axes if axes.get_title() == "rte")
    assert "one answer (hollow): base 20" in axes.texts[0].get_text()
    assert [line.get_markerfacecolor() for line in axes.get_lines()].count("white") == 2
    # No test takes part in their change, but it is drawn, without an interval.
    (changed,) = curves_of(grids["fig6_cross_task"], title="rte\n(class", label="fine-tuned: qa_chat")[:1]
    at_20 = changed.rows.set_index("checkpoint").loc["20"]
    assert np.isfinite(at_20["difference"])
    assert np.isnan(at_20["ci_low"])
    # Bits per byte say something about a constant predictor, too.
    assert not any(curve.hollow for curve in curves_of(grids["appendix_b_bits_per_byte"], title="rte"))


def test_macro_f1_is_in_no_panel_of_accuracy(of_runs):
    assert set(select(of_runs.performance, metric="macro_f1")["Performance"]) == {0.9}
    for name, grid in build_grids(of_runs).items():
        for row in grid:
            for value in (curve.rows[curve.value] for panel in row for curve in panel.curves):
                assert 0.9 not in set(value), name


def test_intervals_stay_on_the_scale_of_their_metric(of_runs):
    wide = of_runs.levels.assign(ci_low=-3.0, ci_high=3.0)
    for row in build_grids(replace(of_runs, levels=wide))["appendix_a_scores"]:
        for of_curve in (curve.rows for panel in row for curve in panel.curves):
            assert set(of_curve["ci_low"]) == {0.0}
            assert set(of_curve["ci_high"]) == {1.0}


def test_all_intervals_of_a_change_are_those_of_the_table(of_runs):
    (changed,) = curves_of(build_grids(of_runs)["fig7_out_of_domain"], title="socialiqa")[:1]
    rows = select(
        of_runs.differences, comparison=Comparison.CHANGE, series="socialiqa", setting="sciq", kind="generation"
    )
    rows = select(rows, metric=changed.rows["metric"].iloc[0])
    assert list(changed.rows["ci_low"]) == pytest.approx(list(in_order(rows)["ci_low"]))
