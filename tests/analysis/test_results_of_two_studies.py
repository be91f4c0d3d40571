"""The results of a study are the same bytes, whatever else was measured in the same base_dir."""

import pytest
from simulated_study import write_study, write_with_sidecar

from analysis import findings, plotting, produce_tables, run_notebook
from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.study.loading import load_study
from open_instruct.study.plan import plan

FIRST = """\
name: first
family: olmo1b
steps: [0, 20, 60]
train_sets:
  socialiqa: {epochs: 3, lr: 1e-3}
evaluation:
  socialiqa: {formats: [default, instruct]}
  heldout_text: {}
suite: {tasks: [arc_easy, sciq], train_sets: [socialiqa]}
"""
# It shares checkpoints 0 and 20 and one recipe with the first; the rest differs.
SECOND = """\
name: second
family: olmo1b
steps: [0, 20, 150]
train_sets:
  socialiqa: {epochs: 3, lr: [1e-3, 1e-4]}
  qa_chat: {epochs: 5, lr: 1e-3}
evaluation:
  socialiqa: {formats: [default, inputoutput]}
  rte: {}
suite: {tasks: [sciq, boolq], train_sets: [qa_chat]}
"""


def write_measurements(base_dir, text):
    """All measurements of a study, and weight noise and weight changes of its models.  -> the study file"""
    written = write_study(base_dir, num_items=8, text=text)
    study_file = written.rename(base_dir / f"{load_study(written).name}.yaml")
    study = load_study(study_file)
    for variant in study.variants():
        for eval_set in study.evaluation:
            about = variant.identity() | {"eval_set": eval_set, "format": "default"}
            noise = [{"size": 0.1, "draw": draw, "bits_per_byte": 2.0 + draw} for draw in range(2)]
            record = {"identity": about, "n": 8, "bits_per_byte": 2.0, "noise": noise}
            write_with_sidecar(paths.perturbation_file(eval_set, "default", variant.model_id), record, about)
        if variant.train_set:
            layers = [{"layer": "all", "distance": 1.0, "base_norm": 4.0, "num_weights": 7}]
            matrix = {"tensor": "lm_head.weight", "layer": "lm_head", "kind": "lm_head", "shape": [8, 4]}
            matrix |= {"rank": 4, "effective_rank": 3.5, "stable_rank": 2.0}
            record = {"identity": variant.identity(), "layers": layers, "matrices": [matrix]}
            write_with_sidecar(paths.weight_distance_file(variant.model_id), record, variant.identity())
    return study_file


def results(base_dir, name):
    """Content of every result but the sidecars, which have times."""
    folder = base_dir / "results" / name
    found = (path for path in folder.rglob("*") if path.is_file() and "meta.json" not in path.name)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """Study -> a base_dir with the measurements of that study only."""
    folders = {}
    for name, text in (("first", FIRST), ("second", SECOND)):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        monkeypatch.setenv("base_dir", str(folders[name]))
        write_measurements(folders[name], text)
    return folders


@pytest.fixture
def shared(tmp_path, monkeypatch, alone):
    """A base_dir with the measurements of both."""
    folder = tmp_path / "shared"
    folder.mkdir()
    monkeypatch.setenv("base_dir", str(folder))
    for text in (FIRST, SECOND):
        write_measurements(folder, text)
    return folder


def test_tables_and_findings_of_each_study_are_those_of_a_base_dir_of_its_own(alone, shared, monkeypatch):
    # The first again after the second: the cache of measurements then has the files of both.
    for base_dir, names in ((shared, ("first", "second", "first")), *((alone[name], (name,)) for name in alone)):
        monkeypatch.setenv("base_dir", str(base_dir))
        for name in names:
            produce_tables.main(produce_tables.Args(base_dir / f"{name}.yaml"))
            findings.main(findings.Args(base_dir / f"{name}.yaml"))
    for name, base_dir in alone.items():
        expected = results(base_dir, name)
        assert {"all_perf_table.csv", "perturbation.csv", "weight_distances.csv", "findings.json"} < expected.keys()
        assert results(shared, name) == expected


@pytest.mark.slow
def test_every_file_of_a_report_is_that_of_a_base_dir_of_its_own(alone, shared, run_report):
    for base_dir in (alone["second"], shared):
        run_report(base_dir, name="second", hash_seed="1")
    expected, found = results(alone["second"], "second"), results(shared, "second")
    assert {"report.html", "figures/fig2_base_models.pdf"} < expected.keys()
    assert found.keys() == expected.keys()
    assert [file for file in expected if found[file] != expected[file]] == []


@pytest.mark.parametrize("script", [findings, plotting, run_notebook])
def test_a_folder_without_results_is_refused_and_not_made(base_dir, script):
    for folder, where in ((None, "results/all"), (base_dir / "nowhere", "nowhere")):
        with pytest.raises(UserError, match=rf"{where}: no all_perf_table\.csv.*--study or --folder"):
            script.main(script.Args(folder=folder))
        assert not (base_dir / where).exists()
    with pytest.raises(UserError, match="--study and --folder exclude each other"):
        script.main(script.Args(study=base_dir / "study.yaml", folder=base_dir))


def test_another_study_of_the_same_name_is_refused_before_it_overwrites_the_first(base_dir):
    study_file = write_study(base_dir, num_items=8, text=FIRST)
    produce_tables.main(produce_tables.Args(study_file))
    before = results(base_dir, "first")
    other = base_dir / "other.yaml"
    other.write_text(FIRST.replace("[0, 20, 60]", "[0, 20]"))
    for refused in (lambda: produce_tables.main(produce_tables.Args(other)), lambda: plan(load_study(other))):
        with pytest.raises(UserError, match=r"has the results of .*simulated\.yaml, another study of the name first"):
            refused()
    assert results(base_dir, "first") == before
    # The same study in another file, a changed file, and a file that replaces the other are no other studies.
    other.write_text(FIRST)
    produce_tables.main(produce_tables.Args(other))
    other.write_text(FIRST.replace("[0, 20, 60]", "[0, 20]"))
    produce_tables.main(produce_tables.Args(other))
    other.unlink()
    produce_tables.main(produce_tables.Args(study_file))
    assert results(base_dir, "first") == before


def test_a_damaged_file_of_another_study_does_not_stop_a_study(base_dir):
    study_file = write_measurements(base_dir, FIRST)
    other = paths.suite_file("boolq", "checkpoint-0")
    write_with_sidecar(other, {"no": "metrics"}, {})
    produce_tables.main(produce_tables.Args(study_file))
    assert other.name not in (paths.results_dir("first") / "official_eval_table.csv").read_text()
