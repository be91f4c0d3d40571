from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from simulated_study import STUDY, write_study

from analysis import produce_tables
from analysis.figures.axis import positions, readable_ticks, short_step
from analysis.figures.drawing import draw, save
from analysis.figures.panels import Curve, Panel
from analysis.figures.study_figures import FIGURES, draw_figure
from analysis.figures.style import BASE_COLOUR, style_of, styles_of
from analysis.tables.frames import Tables, as_table, read_tables
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
