"""Tables, findings and figures of weight noise and weight change, from simulated records.

Simulated, by checkpoint index i: noise of size s raises bits per byte by s * (1 + i); fine-tuning changes layers.0 by
0.01 * (1 + i) of its norm, proportionally to the growth of the gain in the simulated study, and the embedding by 0.001.
"""

import json

import pytest
from simulated_study import STUDY, write_study, write_with_sidecar

from analysis import findings, produce_tables
from analysis.figures.study_figures import build_grids, draw_figure
from analysis.inference.findings import NOT_TESTABLE, find
from analysis.page.report_page import build_page
from analysis.tables.columns import FILES
from analysis.tables.frames import read_tables, select
from open_instruct.common import paths
from open_instruct.common.sidecars import sidecar_path
from open_instruct.study.loading import load_study

NOISE, DISTANCE = "fig9_noise_on_weights", "fig10_weight_distance"
SIZES, DRAWS = (0.1, 0.2, 0.4), (-0.01, 0.0, 0.01)
STUDY_OF_FIVE = STUDY.replace("  rte: {}\n  mrpc: {}\n", "").replace("[default, instruct, inputoutput]", "[default]")


def write_records(study_file):
    study = load_study(study_file)
    for variant in study.variants():
        index, identity = study.steps.index(variant.checkpoint.step), variant.identity()
        noise = [
            {"size": size, "draw": d, "bits_per_byte": 2.0 + size * (1 + index) + deviation}
            for size in SIZES
            for d, deviation in enumerate(DRAWS)
        ]
        about = identity | {"eval_set": "heldout_text", "format": "default"}
        path = paths.perturbation_file("heldout_text", "default", variant.model_id)
        write_with_sidecar(path, {"identity": about, "n": 9, "bits_per_byte": 2.0, "noise": noise}, about)
        if variant.train_set:
            of_layers = (
                ("model.embed_tokens", 0.001),
                ("model.layers.0", 0.01 * (1 + index)),
                ("all", 0.01 * (1 + index)),
            )
            layers = [
                {"layer": name, "distance": 4 * share, "base_norm": 4.0, "num_weights": 7} for name, share in of_layers
            ]
            path = paths.weight_distance_file(variant.model_id)
            write_with_sidecar(path, {"identity": identity, "layers": layers}, identity)


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory):
    base_dir = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("base_dir", str(base_dir))
        study_file = write_study(base_dir, num_items=25, text=STUDY_OF_FIVE)
        write_records(study_file)
        produce_tables.main(produce_tables.Args(study_file))
        findings.main(findings.Args(study_file))
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


def test_findings_have_the_simulated_effects(folder):
    found = json.loads((folder / "findings.json").read_text())["findings"]
    of = {name: [f for f in found if f["family"] == name] for name in ("noise: base", "distance and gain")}
    (base,) = of["noise: base"]
    assert base["verdict"] == "supported"
    # At the middle size, from 1 to 5 times 0.2.
    assert base["effect"] == pytest.approx(0.2 * 4)
    assert "size 0.2" in base["claim"]
    bits = [f for f in of["distance and gain"] if "bits per byte" in f["claim"]]
    assert {f["series"] for f in bits} == {"socialiqa", "hellaswag_endings"}
    # The gain grows by 0.2 bits per byte where the distance grows by 0.01.
    assert [f["effect"] for f in bits] == pytest.approx([20, 20], rel=0.1)
    assert all(f["direction"] == 1 for f in bits)


def test_both_figures_show_the_records(folder):
    tables = read_tables(folder)
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
    found = [f for f in find(tables) if f.family == "noise: base"]
    assert [(f.verdict, f.missing) for f in found] == [(NOT_TESTABLE, "missing: checkpoint 60")]


def test_without_records_there_is_no_table_and_no_figure(folder):
    for name in ("perturbations", "weight_distances"):
        for path in (paths.base_dir() / "output" / name).iterdir():
            path.unlink()
    produce_tables.main(produce_tables.Args(paths.base_dir() / "simulated.yaml"))
    assert not (folder / FILES["noise"]).exists()
    assert not sidecar_path(folder / FILES["distances"]).exists()
    assert {NOISE, DISTANCE}.isdisjoint(build_grids(read_tables(folder)))
