"""Tables, findings and figures of weight noise and weight change, from simulated records.

Simulated, by checkpoint index i: noise of size s raises bits per byte by s * (1 + i); fine-tuning changes layers.0 by
0.01 * (1 + i) of its norm, proportionally to the growth of the gain in the simulated study, and the embedding by 0.001.
In run r = 0, 1, ... of several both are (1 + r / 10) times as large.
"""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from simulated_study import STUDY, WITH_RUNS, write_study, write_with_sidecar

from analysis import findings, produce_tables
from analysis.figures.study_figures import build_grids, caption_of, draw_figure
from analysis.inference.findings import DESCRIBED, NOT_TESTABLE, find
from analysis.page.report_page import build_page
from analysis.tables.columns import DIFFERENCE_COLUMNS, DISTANCE_COLUMNS, FILES, NOISE_COLUMNS, Comparison
from analysis.tables.frames import as_table, read_tables, select
from open_instruct.common import paths
from open_instruct.common.sidecars import sidecar_path
from open_instruct.study.loading import load_study

NOISE, DISTANCE = "fig9_noise_on_weights", "fig10_weight_distance"
SIZES, DRAWS = (0.1, 0.2, 0.4), (-0.01, 0.0, 0.01)
STUDY_OF_FIVE = STUDY.replace("  rte: {}\n  mrpc: {}\n", "").replace("[default, instruct, inputoutput]", "[default]")
STUDY_OF_FOUR_RUNS = (
    WITH_RUNS.replace("[42, 43, 44]", "[42, 43, 44, 45]")
    .replace("  rte: {}\n  mrpc: {}\n  sciq: {}\n", "")
    .replace("[default, instruct, inputoutput]", "[default]")
    .replace("  qa_chat: {epochs: 5, lr: 1e-3}\n", "")
    .replace("suite: {tasks: [arc_easy, sciq, openbookqa, hellaswag, boolq], train_sets: [qa_chat]}\n", "")
)


def write_records(study_file):
    study = load_study(study_file)
    runs = list(dict.fromkeys(variant.checkpoint.run for variant in study.variants()))
    for variant in study.variants():
        index, identity = study.steps.index(variant.checkpoint.step), variant.identity()
        of_run = 1 + runs.index(variant.checkpoint.run) / 10
        noise = [
            {"size": size, "draw": d, "bits_per_byte": 2.0 + of_run * size * (1 + index) + deviation}
            for size in SIZES
            for d, deviation in enumerate(DRAWS)
        ]
        about = identity | {"eval_set": "heldout_text", "format": "default"}
        path = paths.perturbation_file("heldout_text", "default", variant.model_id)
        write_with_sidecar(path, {"identity": about, "n": 9, "bits_per_byte": 2.0, "noise": noise}, about)
        if variant.train_set:
            of_layers = (
                ("model.embed_tokens", 0.001),
                ("model.layers.0", of_run * 0.01 * (1 + index)),
                ("all", of_run * 0.01 * (1 + index)),
            )
            layers = [
                {"layer": name, "distance": 4 * share, "base_norm": 4.0, "num_weights": 7} for name, share in of_layers
            ]
            path = paths.weight_distance_file(variant.model_id)
            write_with_sidecar(path, {"identity": identity, "layers": layers}, identity)


def results_with_records(base_dir, text):
    """Tables and findings of a simulated study with records of its weights."""
    study_file = write_study(base_dir, num_items=25, text=text)
    write_records(study_file)
    produce_tables.main(produce_tables.Args(study_file))
    findings.main(findings.Args(study_file))


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory):
    base_dir = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("base_dir", str(base_dir))
        results_with_records(base_dir, STUDY_OF_FIVE)
        yield base_dir


@pytest.fixture(scope="module")
def of_runs(tmp_path_factory):
    """Tables of four pre-training runs."""
    base_dir = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("base_dir", str(base_dir))
        results_with_records(base_dir, STUDY_OF_FOUR_RUNS)
    return read_tables(base_dir / "results" / "simulated")


@pytest.fixture
def folder(base_dir):
    return base_dir / "results" / "simulated"


def test_tables_have_a_row_for_every_record(folder):
    tables = read_tables(folder)
    assert len(tables.noise) == 5 * 4 * len(SIZES)
    (row,) = select(tables.noise, series="base", checkpoint="60", size=0.2).to_dict("records")
    assert row["difference"] == pytest.approx(0.2 * 3)
    # Three draws 0.01 apart: standard error 0.01 / sqrt(3); Student's t at 2 degrees of freedom is 4.3027.
    assert row["std"] == pytest.approx(0.01 / 3**0.5)
    assert row["ci_high"] - row["difference"] == pytest.approx(4.3027 * row["std"], rel=1e-4)
    assert len(tables.distances) == 5 * 3 * 3
    (row,) = select(tables.distances, series="qa_chat", checkpoint="300", layer="model.layers.0").to_dict("records")
    assert row["relative"] == pytest.approx(0.05)


def slope_of_noise(rows):
    """Of the change at the middle size, 0.2 (1 + i), per doubling of the tokens after step 0."""
    trained = rows[rows["checkpoint"] != "0"].drop_duplicates("checkpoint")
    index = trained["tokens"].rank().to_numpy(float)
    return np.polyfit(np.log2(trained["tokens"].to_numpy(float)), 0.2 * (1 + index), 1)[0]


def test_findings_of_one_run_are_described_and_its_weight_change_is_not_correlated_with_its_gain(folder):
    found = json.loads((folder / "findings.json").read_text())["findings"]
    (base,) = [f for f in found if f["question"] == "weight noise" and f["series"] == "base"]
    assert base["verdict"] == DESCRIBED
    assert base["effect"] == pytest.approx(slope_of_noise(read_tables(folder).noise))
    assert base["sentence"].endswith("over draws of the noise; items are fixed.")
    assert "size 0.2" in base["claim"]
    correlated = [f for f in found if f["question"] == "distance and gain"]
    assert {f["series"] for f in correlated} == {"socialiqa", "hellaswag_endings"}
    assert {f["verdict"] for f in correlated} == {NOT_TESTABLE}
    assert all("1 replicates at checkpoint 300; 4 needed" in f["missing"] for f in correlated)


def test_findings_of_several_runs_have_the_simulated_effects(of_runs):
    found = find(of_runs)
    (base,) = [f for f in found if f.question == "weight noise" and f.series == "base"]
    # Runs are 1, 1.1, 1.2 and 1.3 times as sensitive.
    assert base.effect == pytest.approx(1.15 * slope_of_noise(of_runs.noise))
    assert (base.verdict, base.replicates, base.unit) == ("supported", 4, "pre-training run")
    (bits,) = [
        f for f in found if f.question == "distance and gain" and f.series == "socialiqa" and "bits per byte" in f.claim
    ]
    moved = select(of_runs.distances, series="socialiqa", checkpoint="300", layer="all").set_index("replicate")
    scores = select(of_runs.performance, setting="socialiqa", checkpoint="300", metric="bits_per_byte")
    base_bits, tuned_bits = (
        select(scores, series=name).set_index("replicate")["Performance"] for name in ("base", "socialiqa")
    )
    expected = stats.pearsonr(moved["relative"], (base_bits - tuned_bits)[moved.index])
    assert bits.effect == pytest.approx(expected.statistic)
    assert bits.p_value == pytest.approx(expected.pvalue)


def with_noise(tables, change):
    """Tables whose rows of weight noise are changed."""
    return replace(tables, noise=as_table(change(tables.noise.to_dict("records")), NOISE_COLUMNS))


def base_noise(tables):
    (found,) = [f for f in find(tables) if f.question == "weight noise" and f.series == "base"]
    return found


def test_weight_noise_is_not_averaged_over_an_absent_run_or_checkpoints_without_tokens(of_runs):
    without = with_noise(of_runs, lambda rows: [row for row in rows if row["replicate"] != "seed44"])
    assert (base_noise(without).verdict, base_noise(without).missing) == (NOT_TESTABLE, "missing: seed44")
    unknown = with_noise(
        of_runs, lambda rows: [row | {"tokens": None if row["checkpoint"] == "60" else row["tokens"]} for row in rows]
    )
    assert base_noise(unknown).missing == "the tokens of 60 are not known"


def test_seeds_of_one_run_are_averaged_in_weight_noise_and_weight_change(of_runs):
    def two_seeds(rows, name):
        return [row | {name: row[name] * factor} for row in rows for factor in (0.5, 1.5)]

    seeds = with_noise(of_runs, lambda rows: two_seeds(rows, "difference"))
    assert base_noise(seeds).effect == pytest.approx(base_noise(of_runs).effect)
    distances = as_table(two_seeds(of_runs.distances.to_dict("records"), "relative"), DISTANCE_COLUMNS)
    assert correlations(replace(of_runs, distances=distances)) == pytest.approx(correlations(of_runs))


def correlations(tables):
    return [f.effect for f in find(tables) if f.question == "distance and gain"]


def test_a_gain_that_takes_part_in_no_test_is_not_correlated_with_the_weight_change(of_runs):
    rows = [row | {"missing": "one answer for nearly all items"} for row in of_runs.differences.to_dict("records")]
    found = find(replace(of_runs, differences=as_table(rows, DIFFERENCE_COLUMNS)))
    of_distance = [f for f in found if f.question == "distance and gain"]
    assert of_distance
    assert {(f.verdict, f.missing) for f in of_distance} == {(NOT_TESTABLE, "one answer for nearly all items")}


def test_figures_of_several_runs_show_their_mean_and_each_of_them(of_runs):
    grids = build_grids(of_runs)
    (panel,) = [panel for row in grids[NOISE] for panel in row if panel.title.endswith("base models")]
    curve = next(curve for curve in panel.curves if curve.label == "noise size 0.2")
    at_300 = curve.rows.set_index("checkpoint").loc["300"]
    each = [0.2 * 5 * (1 + run / 10) for run in range(4)]
    assert at_300["difference"] == pytest.approx(np.mean(each))
    half = stats.t.ppf(0.975, 3) * np.std(each, ddof=1) / 2
    assert [at_300["ci_low"], at_300["ci_high"]] == pytest.approx([np.mean(each) - half, np.mean(each) + half])
    assert sorted(rows.set_index("checkpoint").loc["300", "difference"] for rows in curve.each) == pytest.approx(each)
    assert "over 4 pre-training runs, with fixed items and draws" in caption_of(NOISE, grids[NOISE])
    # The gain is drawn against the mean weight change of the runs, a point for each checkpoint.
    (against,) = [
        panel
        for row in grids[DISTANCE]
        for panel in row
        if panel.title.startswith("socialiqa") and "bits" in panel.y_label
    ]
    whole = next(curve for curve in against.curves if curve.label == "all weights")
    assert whole.rows["relative"].tolist() == pytest.approx([0.01 * 1.15 * (1 + i) for i in range(5)])
    gains = select(of_runs.differences, comparison=Comparison.CHANGE, series="socialiqa", setting="socialiqa")
    gains = select(gains, metric="bits_per_byte").set_index("checkpoint")["difference"]
    assert whole.rows.set_index("checkpoint")["difference"].to_dict() == pytest.approx(gains.to_dict())


def test_both_figures_show_the_records(folder):
    tables = read_tables(folder)
    captions = {name: caption_of(name, grid) for name, grid in build_grids(tables).items()}
    assert captions[NOISE].endswith("95% intervals over draws of the noise: one run.")
    assert captions[DISTANCE].endswith("95% intervals over items only: one run.")
    noise = draw_figure(NOISE, tables)
    assert [axes.get_title().split("\n")[1] for axes in noise.axes if axes.get_title()] == [
        *("base models", "fine-tuned on hellaswag_endings", "fine-tuned on qa_chat", "fine-tuned on socialiqa")
    ]
    figure = draw_figure(DISTANCE, tables, axis="tokens")
    (against,) = [axes for axes in figure.axes if axes.get_title() == "socialiqa\nfine-tuned on socialiqa"
                  and "bits" in axes.get_ylabel()]  # fmt: skip
    assert against.get_xlabel() == "relative weight change"
    xs = {round(float(x), 6) for line in against.get_lines() if len(line.get_xdata()) == 5 for x in line.get_xdata()}
    assert xs == {0.001, 0.01, 0.02, 0.03, 0.04, 0.05}


def test_page_has_figures_and_tables_of_the_weights(folder):
    tables = read_tables(folder)
    page = build_page(tables, [], build_grids(tables))
    for part in (f"id='{NOISE}'", f"id='{DISTANCE}'", FILES["noise"], FILES["distances"]):
        assert part in page
    # A source links to its sidecar, relative to the page.
    links = re.findall(r"<a href='(\.\./\.\./output/[^']+)'", page)
    assert len(links) == len(tables.noise) + len(tables.distances)
    assert all((folder / link).is_file() for link in links)


def test_unfinished_records_and_unknown_models_are_skipped_with_a_message(folder, capsys):
    paths.weight_distance_file("elsewhere").write_text(
        json.dumps({"identity": {"model_id": "elsewhere"}, "layers": []})
    )
    gone = sidecar_path(paths.perturbation_file("heldout_text", "default", "checkpoint-60"))
    gone.unlink()
    produce_tables.main(produce_tables.Args(paths.base_dir() / "simulated.yaml"))
    output = capsys.readouterr().out
    assert "elsewhere.json has no sidecar" in output
    assert "checkpoint-60.json has no sidecar" in output
    tables = read_tables(folder)
    assert len(tables.noise) == 5 * 4 * len(SIZES) - len(SIZES)
    found = [f for f in find(tables) if f.question == "weight noise" and f.series == "base"]
    assert [(f.verdict, f.missing) for f in found] == [(NOT_TESTABLE, "missing: checkpoints 60")]


def test_without_records_there_is_no_table_and_no_figure(folder):
    for name in ("perturbations", "weight_distances"):
        for path in (paths.base_dir() / "output" / name).iterdir():
            path.unlink()
    produce_tables.main(produce_tables.Args(paths.base_dir() / "simulated.yaml"))
    assert not (folder / FILES["noise"]).exists()
    assert not sidecar_path(folder / FILES["distances"]).exists()
    assert {NOISE, DISTANCE}.isdisjoint(build_grids(read_tables(folder)))
