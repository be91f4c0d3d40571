"""Tables, findings and figures of weight noise, weight change and interpolation, from simulated records."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from weight_records import SIZES, STUDY_OF_FIVE, results_with_records

from analysis import produce_tables
from analysis.figures.interactive import interactive_figures
from analysis.figures.study_figures import build_grids, caption_of, draw_figure
from analysis.inference.findings import DESCRIBED, NOT_TESTABLE, find
from analysis.page.report_page import build_page
from analysis.tables.columns import DIFFERENCE_COLUMNS, DISTANCE_COLUMNS, FILES, NOISE_COLUMNS
from analysis.tables.frames import as_table, read_tables, select
from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.sidecars import sidecar_path

NOISE, DISTANCE = "fig9_noise_on_weights", "fig10_weight_distance"
RANK, INTERPOLATION = "fig11_update_rank", "fig12_interpolation"


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory):
    base_dir = tmp_path_factory.mktemp("study")
    with results_with_records(base_dir, STUDY_OF_FIVE):
        yield base_dir


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
    assert len(tables.ranks) == 5 * 3 * 3
    of_model = select(tables.ranks, series="qa_chat", checkpoint="300")
    assert of_model["full_rank"].tolist() == [64, 64, 64]
    assert of_model["rank"].tolist() == [0, 64, 64]
    assert of_model["effective_rank"].tolist() == pytest.approx([np.nan, 20, 40], nan_ok=True)
    assert len(tables.interpolation) == 5 * 3 * 3
    of_model = select(tables.interpolation, series="qa_chat", checkpoint="300")
    assert of_model["alpha"].tolist() == [0, 0.5, 1]
    assert of_model["difference"].tolist() == pytest.approx([0, 0, -1])
    assert of_model["barrier"].tolist() == pytest.approx([0.5] * 3)


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


def test_a_path_is_drawn_as_a_line_and_has_its_points_on_the_page(folder):
    tables = read_tables(folder)
    figure = draw_figure(INTERPOLATION, tables, axis="tokens")
    (axes,) = [one for one in figure.axes if one.get_title() == "heldout_text\nfine-tuned on socialiqa"]
    lines = {tuple(line.get_xdata()) for line in axes.get_lines() if line.get_linestyle() == "-"}
    assert (0.0, 0.5, 1.0) in lines
    (shown,) = [f for f in interactive_figures(build_grids(tables), tables) if f["name"] == INTERPOLATION]
    (panel,) = [panel for panel in shown["panels"] if panel["title"] == "heldout_text\nfine-tuned on socialiqa"]
    assert (panel["is_path"], panel["checkpoints"]) == (True, ["0", "0.5", "1"])
    assert panel["curves"][0]["x"] == [0, 0.5, 1]
    assert panel["curves"][0]["y"] == pytest.approx([0, -0.4, -1])


def test_a_record_of_an_earlier_version_is_refused_with_what_to_do(folder):
    (model,) = set(select(read_tables(folder).distances, series="qa_chat", checkpoint="300")["model_id"])
    path = paths.weight_distance_file(model)
    kept = path.read_text()
    path.write_text(json.dumps({k: v for k, v in json.loads(kept).items() if k != "matrices"}))
    with pytest.raises(UserError, match="no 'matrices' in it; remove it and run its script again"):
        produce_tables.main(produce_tables.Args(paths.base_dir() / "simulated.yaml"))
    path.write_text(kept)


def test_figures_of_one_run_show_the_records(folder):
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
    names = ("noise", "distances", "ranks", "interpolation")
    for part in (
        *(f"id='{name}'" for name in (NOISE, DISTANCE, RANK, INTERPOLATION)),
        *(FILES[name] for name in names),
    ):
        assert part in page
    # A source links to its sidecar, relative to the page.
    links = re.findall(r"<a href='(\.\./\.\./output/[^']+)'", page)
    assert len(links) == sum(len(getattr(tables, name)) for name in names)
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
    for name in ("perturbations", "weight_distances", "interpolations"):
        for path in (paths.base_dir() / "output" / name).iterdir():
            path.unlink()
    produce_tables.main(produce_tables.Args(paths.base_dir() / "simulated.yaml"))
    assert not (folder / FILES["noise"]).exists()
    assert not any(sidecar_path(folder / FILES[name]).exists() for name in ("distances", "ranks", "interpolation"))
    assert {NOISE, DISTANCE, RANK, INTERPOLATION}.isdisjoint(build_grids(read_tables(folder)))
