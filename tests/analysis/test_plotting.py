import numpy as np
import pandas as pd
import pytest
from simulated_study import STUDY, write_study

from analysis import produce_tables
from analysis.figures import panels
from analysis.figures.drawing import (
    TURN,
    draw,
    positions,
    readable_ticks,
    save,
    short_step,
)
from analysis.figures.panels import (
    Curve,
    Panel,
    style_of,
    styles_of,
)
from analysis.plotting import FIGURES
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
        yield read_tables(paths.results_dir())


def curve(label, checkpoints, values):
    rows = pd.DataFrame({"checkpoint": checkpoints, "Performance": values})
    rows["ci_low"], rows["ci_high"] = rows["Performance"] - 0.1, rows["Performance"] + 0.1
    return Curve(label, style_of([label])[label], rows)


def texts_of(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_the_same_figure_gives_the_same_bytes(tables, tmp_path):
    first, second = (save(FIGURES["fig8_heldout_text"].make(tables), tmp_path / name / "figure") for name in "ab")
    assert [path.name for path in first] == ["figure.png", "figure.pdf"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_figure_without_data_says_so(tables):
    empty = Tables(*(as_table([], tuple(frame.columns)) for frame in vars(tables).values()))
    for name, figure in FIGURES.items():
        assert texts_of(figure.make(empty)) == ["not measured"], name


def test_a_panel_names_what_was_not_measured():
    panel = Panel(
        "xsum", "ROUGE-L", [curve("base", ["0", "20"], [0.1, 0.2]), curve("tuned", ["0"], [0.3])], ["0", "20"]
    )
    assert texts_of(draw([[panel]], title="")) == ["not measured: tuned 20"]


def test_a_curve_of_few_points_names_those_it_has():
    panel = Panel("xsum", "ROUGE-L", [curve("tuned", ["20"], [0.3])], ["0", "20", "60"])
    assert texts_of(draw([[panel]], title="")) == ["tuned measured at 20 only"]


def test_a_panel_with_a_legend_of_its_own_is_in_no_other():
    about = {"title": "xsum", "y_label": "ROUGE-L", "checkpoints": ["0", "20"]}
    own = Panel(curves=[curve("mine", ["0", "20"], [0.1, 0.2])], own_legend=True, **about)
    shared = Panel(curves=[curve("ours", ["0", "20"], [0.1, 0.2])], **about)
    figure = draw([[own, shared]], title="")
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["mine"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ours"]


def test_the_legend_counts():
    labels = ["noise of 0.1", "noise of 0.02", "layers.10", "layers.9"]
    panel = Panel("xsum", "ROUGE-L", [curve(label, ["0", "20"], [0.1, 0.2]) for label in labels])
    texts = [text.get_text() for text in draw([[panel]], title="").legends[0].get_texts()]
    assert texts == ["layers.9", "layers.10", "noise of 0.02", "noise of 0.1"]


def test_labels_that_would_touch_are_turned_and_all_there():
    names = ["1000", "18000", "342000", "424000", "505000", "592000", "738000", "main"]
    panel = Panel("xsum", "ROUGE-L", [curve("base", names, np.linspace(0, 1, 8))], names)
    labels = draw([[panel]], title="").axes[0].get_xticklabels()
    assert [label.get_text() for label in labels] == [short_step(name) for name in names]
    assert {label.get_rotation() for label in labels} == {TURN}


def test_a_missing_checkpoint_breaks_the_line():
    panel = Panel("xsum", "ROUGE-L", [curve("base", ["0", "60"], [0.1, 0.2])], ["0", "20", "60"])
    (line, *_) = draw([[panel]], title="").axes[0].get_lines()
    assert pd.isna(list(line.get_ydata())).tolist() == [False, True, False]


def test_step_zero_has_a_place_on_the_log_axis_and_main_comes_last():
    places = positions(["0", "20", "60", "main"], "log")
    # log(1 + step / 20): 0, log 2 and log 4, stretched over two distances; then main, one distance on.
    assert places == pytest.approx({"0": 0, "20": 1, "60": 2, "main": 3})


def test_linear_places_follow_the_steps():
    assert positions(["0", "100", "400"], "linear") == pytest.approx({"0": 0, "100": 0.5, "400": 2})


def test_an_unknown_scale_is_refused():
    with pytest.raises(UserError, match="index, linear, log"):
        positions(["0", "20"], "cubic")


def test_tick_labels_keep_their_distance():
    # "500k" and "738k" are four characters wide: 0.15 of the axis is room for them, 0.1 is not.
    assert readable_ticks({"0": 0.0, "500000": 0.85, "738000": 1.0}, 1.0) == {"0", "500000", "738000"}
    assert readable_ticks({"0": 0.0, "500000": 0.9, "738000": 1.0}, 1.0) == {"0", "738000"}


def test_short_steps():
    names = ("0", "300", "1500", "738000", "3095412736", "main")
    assert [short_step(name) for name in names] == ["0", "300", "1.5k", "738k", "3.1B", "main"]


def test_the_token_axis_counts_tokens(tables):
    figure = FIGURES["fig8_heldout_text"].make(tables, axis="tokens")
    axes = figure.axes[0]
    assert axes.get_xlabel() == "pre-training tokens"
    # 2048 sequences of 2048 tokens a step: 20 steps are 83.9 million tokens.
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "83.9M", "252M"]


def test_base_is_black_and_the_others_differ():
    styles = style_of([f"set{i}" for i in range(12)], base=["base"])
    assert styles["base"].colour == panels.BASE_COLOUR
    assert len(set(styles.values())) == 13


def test_a_series_keeps_its_style_through_all_figures(tables):
    styles = styles_of(tables)
    assert set(styles) == {"base", "socialiqa", "hellaswag_endings", "qa_chat"}
    suites = FIGURES["fig4_suites"].make(tables).axes[0].get_lines()
    assert {line.get_color() for line in suites} == {styles["base"].colour, styles["qa_chat"].colour}


def test_nothing_is_drawn_outside_the_figure(tables):
    for name, described in FIGURES.items():
        figure = described.make(tables, scale="log", axis="tokens")
        figure.draw_without_rendering()
        box = figure.get_tightbbox()
        width, height = figure.get_size_inches()
        assert box.x0 >= -0.02, name
        assert box.y0 >= -0.02, name
        assert box.x1 <= width + 0.02, name
        assert box.y1 <= height + 0.02, name
