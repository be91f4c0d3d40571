"""Fine-tuned models that others published are listed, downloaded, and on the curves beside one's own."""

import pytest
from loopback_hub import LoopbackHub
from simulated_study import write_with_sidecar
from toy_evaluation import SCIQ, write_evaluation
from toy_models import toy_olmo

from analysis.tables.gathering import gather_measurements
from eval import eval_pred, predict
from open_instruct import download_olmo_ckpts as download
from open_instruct.checkpoints.families import Checkpoint, family_named
from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.sidecars import read_sidecar
from open_instruct.study.variants import IDENTITY_FIELDS, Variant, identify

STORE = family_named("olmo1b").fine_tuned
NAMES = (
    "olmo1b_hf_main_xsum_3epoch_2e-7",
    "olmo1b_hf_ckpt18000_xsum_3epoch_2e-7",
    "olmo1b_hf_ckpt1000_xsum_3epoch_2e-7",
    "olmo1b_hf_ckpt1000_tulu_5epoch_2e-6",
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Name -> file -> content of small models in transformers format."""
    folder = tmp_path_factory.mktemp("hub")
    for seed, name in enumerate(NAMES):
        toy_olmo(folder / name, seed=seed)
    return {name: {path.name: path.read_bytes() for path in (folder / name).iterdir()} for name in NAMES}


@pytest.fixture
def hub(base_dir, monkeypatch, models):
    with LoopbackHub() as hub:
        hub.point_clients_here(monkeypatch, base_dir / "cache")
        hub.add("model", STORE.hub, {"README.md": "# Models"})
        for name in NAMES:
            hub.add("model", STORE.hub, models[name], ref=name)
        yield hub


def run(*train_sets: str, family: str = "olmo1b", **options) -> None:
    download.main(download.Args(family=family, fine_tuned=train_sets or ("all",), **options))


def test_models_are_listed_by_train_set_and_step_and_other_revisions_are_counted(hub, capsys):
    hub.add("model", STORE.hub, {"README.md": "# A trial"}, ref="trial_2e-6")
    run(list=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{STORE.hub}: left out 1 revision(s) of other names")
    assert lines[0].endswith("e.g. trial_2e-6")
    assert [line.split() for line in lines[2:-1]] == [
        ["1000", "4.194B", NAMES[3]],
        ["1000", "4.194B", NAMES[2]],
        ["18000", "75.5B", NAMES[1]],
        ["main", NAMES[0]],
    ]
    run("tulu", list=True)
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_a_downloaded_model_has_its_identity_and_not_the_name_of_ones_own(hub, models):
    run("xsum", steps=("1000,main",))
    for name, step in ((NAMES[2], 1000), (NAMES[0], None)):
        folder = paths.fine_tuned_model(f"{name}_published")
        assert (folder / "model.safetensors").read_bytes() == models[name]["model.safetensors"]
        found = identify(folder)
        assert tuple(found) == IDENTITY_FIELDS
        own = Variant(Checkpoint("olmo1b", step), "xsum", 3, 2e-7)
        assert own.model_id == name
        unlike = {"model_id": f"{name}_published", "settings": "published", "seed": None}
        assert found == own.identity() | unlike
    assert sorted(path.name for path in (paths.base_dir() / "output").iterdir() if "olmo1b" in path.name) == [
        f"{NAMES[2]}_published",
        f"{NAMES[0]}_published",
    ]
    hub.requests.clear()
    run("xsum", steps=("1000",))
    assert not hub.requests_of("resolve|tree")


def test_all_steps_of_a_train_set_are_downloaded_without_steps(hub):
    run("xsum", download_in_parallel=True)
    assert all(paths.fine_tuned_model(f"{name}_published").is_dir() for name in NAMES[:3])


def test_a_train_set_without_one_of_the_steps_is_named(hub, capsys):
    run("xsum", "tulu", steps=("1000,main",))
    assert "not published, left out: tulu of step main\n" in capsys.readouterr().out
    assert not paths.fine_tuned_model("olmo1b_hf_main_tulu_5epoch_2e-6_published").exists()


def test_its_scores_are_a_curve_beside_ones_own(hub, base_dir):
    run("xsum", steps=("1000",))
    write_evaluation(base_dir / "sciq.jsonl", SCIQ)
    folder = paths.fine_tuned_model(f"{NAMES[2]}_published")
    predict.main(predict.Args(folder, (base_dir / "sciq.jsonl",), max_new_tokens=2))
    eval_pred.main(eval_pred.Args(num_resamples=100))
    (scored,) = (base_dir / "output" / "predictions").glob("*.metrics.json")
    meta = read_sidecar(scored)
    of_set = {name: meta["identity"][name] for name in ("eval_set", "format", "protocol", "kind", "role")}
    value = {"mean": 0.1, "standard_error": 0.01, "ci_low": 0.0, "ci_high": 0.2, "n": 6}
    for own in (Variant(Checkpoint("olmo1b", 1000)), Variant(Checkpoint("olmo1b", 1000), "xsum", 3, 2e-7)):
        identity = own.identity() | of_set
        path = paths.metrics_file(paths.prediction_file("sciq", "default", own.model_id, "_new2"))
        write_with_sidecar(path, {"identity": identity, "primary": "rouge_l", "metrics": {"rouge_l": value}}, identity)
    rows = [row for row in gather_measurements(None).rows if row["metric"] == "rouge_l"]
    assert {(row["series"], row["checkpoint"], row["unit"]) for row in rows} == {
        ("base", "1000", None),
        ("xsum settings=default", "1000", None),
        ("xsum settings=published", "1000", None),
    }


def test_what_cannot_be_chosen_is_named(hub, base_dir, models):
    with pytest.raises(UserError, match=r"has no models that were fine-tuned on xsun \(did you mean xsum"):
        run("xsun")
    with pytest.raises(UserError, match="fine-tuned from step 18001; expected some of 1000, 18000, main"):
        run("xsum", steps=("18001",))
    with pytest.raises(UserError, match="by --fine_tuned and --steps alone"):
        run("xsum", ckpt_amount=2)
    with pytest.raises(UserError, match="--ckpt_csv lists native checkpoints"):
        run("xsum", ckpt_csv=base_dir / "list.csv")
    with pytest.raises(UserError, match="no published fine-tuned models of family amber are known, only of olmo1b"):
        run(family="amber")
    hub.add("model", STORE.hub, models[NAMES[3]], ref="olmo1b_hf_ckpt1000_tulu_5epoch_2.0e-6")
    with pytest.raises(UserError, match="have the same identity"):
        run("tulu")


def test_a_store_of_ones_own_is_three_lines_and_its_pattern_is_checked(hub, base_dir, models):
    families = base_dir / "families.yaml"
    names = "ckpt-{checkpoint}_{train_set}_{epochs}_{lr}"
    families.write_text(f"mine:\n  hub: me/base\n  fine_tuned: {{hub: me/tuned, revision: '{names}'}}\n")
    hub.add("model", "me/tuned", models[NAMES[0]], ref="ckpt-ckpt5_my_chats_2_1e-5")
    run(family="mine")
    assert identify(paths.fine_tuned_model("mine_hf_ckpt5_my_chats_2epoch_1e-5_published"))["step"] == 5
    of_mine = families.read_text()
    families.write_text(of_mine.replace("me/tuned", "me/my--tuned"))
    with pytest.raises(UserError, match="me/my--tuned: no name of a repository; Cannot have --"):
        run(family="mine")
    families.write_text(of_mine.replace("_{lr}", ""))
    with pytest.raises(UserError, match=r"mine: revision of fine_tuned is .*, expected \{checkpoint\}, .*\{lr\}, each"):
        run(family="mine")
