"""Suites of several runs, stages and repositories on a loopback Hub: listed, kept with a date, chosen, downloaded."""

import json
import re
from collections.abc import Mapping

import pytest
from loopback_hub import LoopbackHub
from toy_suites import make_model

from open_instruct import download_olmo_ckpts as download
from open_instruct.checkpoints.families import Checkpoint, family_named
from open_instruct.checkpoints.hub_listing import listing_file
from open_instruct.checkpoints.hub_store import list_hub
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json
from open_instruct.common.sidecars import read_sidecar

DATADECIDE, PYTHIA, OLMO2 = "allenai/DataDecide-c4-4M", "EleutherAI/pythia-14m", "allenai/OLMo-2-1124-7B"


@pytest.fixture
def hub(base_dir, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    with LoopbackHub() as hub:
        hub.point_clients_here(monkeypatch, base_dir / "cache")
        yield hub


def add(
    hub: LoopbackHub, repository: str, *names: str, files: Mapping[str, str] | None = None, commit: str = ""
) -> None:
    """Add revisions without weights; with `commit`, all of them of this one."""
    for name in ("main", *names):
        hub.add("model", repository, files or {"config.json": "{}"}, ref=name, commit_id=commit or None)


def list_(family: str, capsys: pytest.CaptureFixture[str], **options) -> str:
    download.main(download.Args(family=family, list=True, **options))
    return capsys.readouterr().out


def listed(family: str, **options) -> list[tuple[str | None, str | None, int | None]]:
    """Stage, run and step of each."""
    found = [one.checkpoint for one in list_hub(family_named(family), **options).available]
    return [(one.stage, one.run, one.step) for one in found]


# --- what is odd about a list ---


def test_two_names_of_one_commit_are_one_checkpoint(hub, capsys):
    add(hub, PYTHIA, "step1000", "step01000", commit="a" * 40)
    assert listed("pythia-14m", runs=()) == [(None, None, 1000), (None, None, None)]
    assert "both name it" not in list_("pythia-14m", capsys)


def test_two_revisions_of_one_step_that_differ_are_left_out_and_named(hub, capsys):
    add(hub, OLMO2, "step1000-tokens5B", "stage1-step1000-tokens5B", "stage1-step2000-tokens9B")
    text = list_("olmo2_7b", capsys)
    names = "step1000-tokens5B and stage1-step1000-tokens5B|stage1-step1000-tokens5B and step1000-tokens5B"
    assert re.search(rf"note: {OLMO2}: left out checkpoint-1000: ({names}) both name it, and differ", text)
    assert listed("olmo2_7b", cached=True) == [(None, None, 2000), (None, None, None)]
    with pytest.raises(UserError, match=r"no checkpoint of step 1000 \(nearest: 2000\)"):
        download.main(download.Args(family="olmo2_7b", steps=("1000",)))


def test_names_without_the_prefix_are_of_stage_1(hub, capsys):
    names = ("step150-tokens1B", "stage1-step928646-tokens3896B", "stage2-ingredient3-step11931-tokens50B")
    add(hub, OLMO2, *names)
    rows = [line.split() for line in list_("olmo2_7b", capsys).splitlines()]
    assert rows[0] == ["stage", "run", "step", "tokens", "GB", "date", "where"]
    size_and_date = ["0.00", "2026-11-01"]
    assert rows[1:5] == [
        ["stage1", "150", "629.1M", *size_and_date, names[0]],
        ["stage1", "928646", "3.895T", *size_and_date, names[1]],
        ["main", *size_and_date, "main"],
        ["stage2", "3", "11931", "3.945T", *size_and_date, names[2]],
    ]


def test_a_name_whose_tokens_contradict_its_step_is_marked(hub, capsys):
    add(hub, OLMO2, "stage1-step1000-tokens5B", "stage1-step900000-tokens8B")
    text = list_("olmo2_7b", capsys)
    assert re.search(r"stage1-step900000-tokens8B +\(its name states another number of tokens\)", text)
    assert "note: 1 name(s) state another number of tokens than their step gives" in text


def test_a_main_without_weights_is_no_checkpoint(hub, capsys):
    add(hub, "HuggingFaceTB/SmolLM3-3B-checkpoints", "stage1-step-40000", files={"README.md": "x"})
    assert listed("smollm3_3b") == [(None, None, 40_000)]
    with pytest.raises(UserError, match="the store has no checkpoint of step main"):
        download.main(download.Args(family="smollm3_3b", steps=("main",)))


# --- several repositories ---


def test_a_repository_of_a_run_that_is_missing_is_named_and_the_others_are_listed(hub, capsys):
    for run in ("", "-seed1", "-seed3"):
        add(hub, PYTHIA + run, "step0", "step1000")
    text = list_("pythia-14m", capsys)
    assert "9 checkpoints of pythia-14m" in text
    missing = [number for number in range(1, 10) if f"left out: {PYTHIA}-seed{number}: no such repository" in text]
    assert missing == [2, 4, 5, 6, 7, 8, 9]
    assert {run for _, run, _ in listed("pythia-14m", cached=True)} == {None, "seed1", "seed3"}
    with pytest.raises(UserError, match=r"EleutherAI/pythia-14m-seed2: no such repository"):
        download.main(download.Args(family="pythia-14m", steps=("0",), runs=("seed2",)))


def test_a_run_alone_needs_its_repository_alone(hub):
    for run in ("", "-seed1"):
        add(hub, PYTHIA + run, "step0")
    assert listed("pythia-14m", runs=("seed1",)) == [
        (None, None, 0),
        (None, None, None),
        (None, "seed1", 0),
        (None, "seed1", None),
    ]
    assert not hub.requests_of("seed2")


def test_a_hub_without_any_of_the_repositories_is_an_error(hub):
    with pytest.raises(UserError, match="EleutherAI/pythia-14m: no such repository"):
        list_hub(family_named("pythia-14m"))


# --- listings that are kept ---


def test_a_listing_is_kept_with_its_date_and_taken_when_the_hub_is_down(hub, capsys, base_dir):
    add(hub, DATADECIDE, "step0-seed-default", "step1250-seed-default", "step0-seed-small-aux-2")
    before = list_("datadecide-c4-4M", capsys)
    assert listing_file(DATADECIDE) == base_dir / "output" / "listings" / "allenai--DataDecide-c4-4M.json"
    date = read_json(listing_file(DATADECIDE))["listed"]
    assert f"listed {date} UTC" in before
    hub.go_down()
    hub.requests.clear()
    assert list_("datadecide-c4-4M", capsys, cached=True) == before
    assert hub.requests == []
    with pytest.raises(UserError, match=f"add --cached to take the listing of {date} UTC"):
        list_("datadecide-c4-4M", capsys)
    with pytest.raises(
        UserError, match=r"DataDecide-c4-6M: no listing on this disk \(output/listings/allenai--DataDecide-c4-6M"
    ):
        list_("datadecide-c4-6M", capsys, cached=True)


def test_a_pattern_lists_each_of_its_families(hub, capsys):
    for data in ("c4", "falcon"):
        add(hub, f"allenai/DataDecide-{data}-4M", "step0-seed-default")
    text = list_("datadecide-[cf]*[4n]-4M", capsys)
    assert re.findall(r"2 checkpoints of (\S+),", text) == ["datadecide-c4-4M", "datadecide-falcon-4M"]
    with pytest.raises(UserError, match="no family is like datadecide-x"):
        list_("datadecide-x*", capsys)


def test_sizes_and_dates_are_asked_for_once_and_again_for_another_commit(hub, capsys):
    add(hub, DATADECIDE, "step0-seed-default", "step1250-seed-default")
    first = list_("datadecide-c4-4M", capsys)
    assert first.count("2026-11-01") == 3
    hub.requests.clear()
    list_("datadecide-c4-4M", capsys)
    assert not hub.requests_of("/revision/")
    hub.add("model", DATADECIDE, {"model.safetensors": b"x" * 20_000_000}, ref="step1250-seed-default")
    assert "0.02" in list_("datadecide-c4-4M", capsys)
    assert len(hub.requests_of("/revision/")) == 1


@pytest.mark.parametrize("content", ["[]", "{}", '{"repository": "x/y", "listed": "", "revisions": []}', "{"])
def test_a_damaged_listing_is_named(hub, content):
    listing_file(DATADECIDE).parent.mkdir(parents=True)
    listing_file(DATADECIDE).write_text(content)
    with pytest.raises(UserError, match=r"allenai--DataDecide-c4-4M\.json"):
        list_hub(family_named("datadecide-c4-4M"), cached=True)


# --- downloads ---


def test_a_repository_that_wants_its_own_code_is_refused_before_its_weights(hub):
    code = {"AutoConfig": "configuration_baichuan.BaichuanConfig", "AutoModelForCausalLM": "modeling_baichuan.Model"}
    config = {"architectures": ["BaichuanForCausalLM"], "model_type": "baichuan", "auto_map": code}
    files = {
        "config.json": json.dumps(config),
        "pytorch_model.bin": "x",
        "tokenizer.model": "x",
        "modeling_baichuan.py": "x",
    }
    repository = "baichuan-inc/Baichuan2-7B-Intermediate-Checkpoints"
    add(hub, repository, "train_00220B", files=files)
    with pytest.raises(UserError, match=r"needs code of its own repository .*no model type 'baichuan'.*never run"):
        download.main(download.Args(family="baichuan2_7b", steps=("220",)))
    assert {request.path.rpartition("/")[2] for request in hub.requests_of("/resolve/")} == {"config.json"}


def test_the_steps_of_chosen_tokens_are_printed_by_stage(hub, capsys):
    stages = ("stage1-step100-tokens1B", "stage1-step928646-tokens3896B", "stage2-ingredient1-step11931-tokens50B")
    add(hub, OLMO2, *stages)
    options = {"tokens": ("3.895T,3.945T",), "runs": ("all",), "stages": ("all",)}
    # None of them has weights.
    with pytest.raises(UserError, match=r"has no config\.json with"):
        download.main(download.Args(family="olmo2_7b", **options))
    assert "steps: [928646]  # stage1\nsteps: [11931]  # stage2" in capsys.readouterr().out


def test_runs_are_downloaded_at_equal_tokens_each_to_its_own_folder(hub, base_dir, tmp_path, capsys):
    for seed, (run, step) in enumerate([("", 256), ("", 512), ("-seed1", 512), ("-seed2", 512)]):
        place = tmp_path / "published" / f"{run}{step}"
        make_model("gpt_neox", place, seed)
        hub.add("model", PYTHIA + run, {path.name: path for path in place.iterdir()}, ref=f"step{step}")
    options = {"family": "pythia-14m", "tokens": ("1B",), "nearest": True, "runs": ("main,seed1",)}
    download.main(download.Args(**options))
    printed = capsys.readouterr().out
    assert "at 1B tokens there is none; chose the nearest, run seed1, checkpoint-512" in printed
    assert "\nsteps: [512]  # " in printed
    output = base_dir / "output"
    for run, folder in ((None, "pythia-14m_tf_ckpts"), ("seed1", "pythia-14m_seed1_tf_ckpts")):
        one = Checkpoint("pythia-14m", 512, run)
        assert one.folder == output / folder / "checkpoint-512"
        meta = read_sidecar(one.folder)
        identity = {"family": "pythia-14m", "stage": None, "run": run, "step": 512, "tokens": 512 * 2_097_152}
        assert meta["identity"].items() >= identity.items()
        assert meta["tokens_asked_for"] == 10**9
    assert {path.parent.name for path in output.glob("*/checkpoint-*")} == {
        "pythia-14m_tf_ckpts",
        "pythia-14m_seed1_tf_ckpts",
    }
    download.main(download.Args(**options, output_dir=tmp_path / "elsewhere"))
    found = {str(path.relative_to(tmp_path / "elsewhere")) for path in (tmp_path / "elsewhere").rglob("checkpoint-*")}
    assert found == {"checkpoint-512", "pythia-14m_seed1_tf_ckpts/checkpoint-512"}


def test_a_download_leaves_the_listing_that_a_study_is_planned_from(hub):
    add(hub, PYTHIA, "step1000")
    list_hub(family_named("pythia-14m"), runs=(), replace_kept=True)
    add(hub, PYTHIA, "step2000")
    assert (None, None, 2000) in listed("pythia-14m", runs=())
    assert (None, None, 2000) not in listed("pythia-14m", runs=(), cached=True)
    listed("pythia-14m", runs=(), replace_kept=True)
    assert (None, None, 2000) in listed("pythia-14m", runs=(), cached=True)


@pytest.mark.parametrize("run", ["main", "all", "..", "-x", "s2", "s2_1"])
def test_a_run_of_a_name_that_is_not_possible_is_left_out(hub, base_dir, run, capsys):
    stages = "{s1: {revision: 's1-{run}-step{step}'}, s2: {revision: 's2-{run}-step{step}'}}"
    (base_dir / "families.yaml").write_text(f"mine: {{hub: me/mine, stages: {stages}}}\n")
    add(hub, "me/mine", f"s1-{run}-step5", "s1-good-step5")
    assert listed("mine", runs=("all",)) == [(None, None, None), (None, "good", 5)]
    assert f"left out 1 revision(s) of other names, e.g. s1-{run}-step5" in list_("mine", capsys)


def test_every_run_that_is_wanted_must_be_listed(hub):
    add(hub, PYTHIA, "step1000")
    with pytest.raises(UserError, match=r"pythia-14m-seed1: no such repository"):
        list_hub(family_named("pythia-14m"), runs=("all",))


def test_runs_that_families_yaml_and_the_list_do_not_share_are_named(hub, capsys):
    add(hub, DATADECIDE, "step1250-seed-default", "step1250-seed-small-aux-2", "step1250-seed-large-aux-2")
    text = list_("datadecide-c4-4M", capsys)
    assert "note: run large-aux-2 is not in families.yaml" in text
    assert "note: run small-aux-3 of families.yaml is not in the list" in text
    assert "run small-aux-2 of" not in text
