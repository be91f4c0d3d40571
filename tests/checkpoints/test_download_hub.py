"""Families on the Hub: listed, chosen, downloaded, verified and sanitized, by the real client from a loopback Hub."""

import io
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from loopback_hub import LoopbackHub
from malicious_pickle import Payload
from toy_models import toy_olmo
from transformers import AutoModelForCausalLM, AutoTokenizer

from open_instruct import download_olmo_ckpts as download
from open_instruct.checkpoints import sanitize
from open_instruct.checkpoints.families import Checkpoint
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json
from open_instruct.common.sidecars import read_sidecar
from open_instruct.study.variants import Variant

REPOSITORY = "toy/olmo-hf"
STEPS = (1000, 2000, 5000)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """step -> name -> content of small models in transformers format; None: the released one."""
    folder = tmp_path_factory.mktemp("hub")
    found = {}
    for seed, step in enumerate((*STEPS, None)):
        place = folder / str(step)
        toy_olmo(place, seed=seed)
        found[step] = {path.name: path.read_bytes() for path in place.iterdir()} | {"modeling.py": b"raise SystemExit"}
    return found


@pytest.fixture
def hub(base_dir, monkeypatch, models):
    (base_dir / "families.yaml").write_text(f"toy: {{hub: {REPOSITORY}, revision: 'step{{step}}-tokens{{tokens}}B'}}\n")
    with LoopbackHub() as hub:
        hub.point_clients_here(monkeypatch, base_dir / "cache")
        for step in STEPS:
            hub.add("model", REPOSITORY, models[step], ref=f"step{step}-tokens{step * 4 // 1000}B")
        hub.add("model", REPOSITORY, models[None])
        hub.add("model", REPOSITORY, models[1000], ref="experiment")
        yield hub


def run(**options) -> None:
    download.main(download.Args(family="toy", **options))


def folder_of(step: int | None):
    return Checkpoint("toy", step).folder


def test_revisions_are_listed_by_step(hub, capsys):
    run(list=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:5]] == [
        ["step", "GB", "date", "where"],
        ["1000", "0.00", "2026-11-01", "step1000-tokens4B"],
        ["2000", "0.00", "2026-11-01", "step2000-tokens8B"],
        ["5000", "0.00", "2026-11-01", "step5000-tokens20B"],
        ["main", "0.00", "2026-11-01", "main"],
    ]
    assert lines[5].endswith("left out 1 revision(s) of other names, e.g. experiment")


def test_chosen_revisions_load_in_transformers(hub, models):
    run(ckpt_amount=2, download_in_parallel=True)
    run(steps=("main",))
    for step in (1000, 5000, None):
        folder = folder_of(step)
        assert folder == Variant(Checkpoint("toy", step)).folder
        assert (folder / "model.safetensors").read_bytes() == models[step]["model.safetensors"]
        assert not (folder / "modeling.py").exists()
        meta = read_sidecar(folder)
        assert meta["identity"]["step"] == step
        assert len(meta["downloaded"]["commit"]) == 40
        AutoModelForCausalLM.from_pretrained(folder)
        assert AutoTokenizer.from_pretrained(folder).eos_token == "<|endoftext|>"
    assert not folder_of(2000).exists()
    assert sorted(p.name for p in folder_of(None).parent.iterdir()) == ["checkpoint-1000", "checkpoint-5000", "main"]


def test_finished_checkpoints_are_not_requested_again(hub):
    run(steps=("1000",))
    hub.requests.clear()
    run(steps=("1000",))
    assert not hub.requests_of("resolve|tree")


def test_download_is_resumed_after_the_hub_was_down(hub, models, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.go_down(after_bytes=3000)
    with pytest.raises(UserError, match=r"toy/olmo-hf step1000-tokens4B"):
        run(steps=("1000",))
    assert not folder_of(1000).exists()
    hub.come_up()
    run(steps=("1000",))
    assert (folder_of(1000) / "model.safetensors").read_bytes() == models[1000]["model.safetensors"]


def test_weights_published_under_two_steps_are_refused_before_they_are_downloaded(hub, models):
    hub.add("model", REPOSITORY, models[5000], ref="step2000-tokens8B")
    with pytest.raises(UserError, match=r"checkpoint-5000 has the same model\.safetensors as checkpoint-2000"):
        run(steps=("1000", "2000", "5000"))
    assert not hub.requests_of(r"/resolve/.*safetensors")


def test_pickles_become_safetensors_without_old_buffers(hub, models):
    run(steps=("1000",))
    state = AutoModelForCausalLM.from_pretrained(folder_of(1000)).state_dict()
    file = io.BytesIO()
    torch.save(state | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, file)
    files = {name: data for name, data in models[1000].items() if not name.endswith(".safetensors")}
    hub.add("model", "toy/pickled", files | {"pytorch_model.bin": file.getvalue()})
    families = folder_of(1000).parents[2] / "families.yaml"
    families.write_text(families.read_text() + "pickled: {hub: toy/pickled}\n")
    download.main(download.Args(family="pickled", steps=("main",)))
    folder = Checkpoint("pickled", None).folder
    assert not list(folder.glob("*.bin"))
    assert read_sidecar(folder)["made_safetensors_of"] == ["pytorch_model.bin"]
    found = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert state.keys() == found.keys()
    assert all(torch.equal(state[name], found[name]) for name in state)


def test_malicious_pickle_on_the_hub_is_not_executed(hub, models, base_dir):
    files = {name: data for name, data in models[1000].items() if not name.endswith(".safetensors")}
    payload = io.BytesIO()
    torch.save({"a": Payload(base_dir / "executed")}, payload)
    for number, content in enumerate((payload.getvalue(), pickle.dumps(Payload(base_dir / "executed")))):
        hub.add("model", REPOSITORY, files | {"pytorch_model.bin": content}, ref=f"step{9000 + number}-tokens36B")
        with pytest.raises(UserError, match="nothing in it was executed"):
            run(steps=(str(9000 + number),))
    assert not (base_dir / "executed").exists()


def test_weights_of_another_model_are_refused(hub, models):
    config = models[1000]["config.json"].replace(b'"num_hidden_layers": 2', b'"num_hidden_layers": 3')
    hub.add("model", REPOSITORY, models[1000] | {"config.json": config}, ref="step7000-tokens28B")
    with pytest.raises(UserError, match=r"not those of its config\.json: .*missing_keys.*model\.layers\.2"):
        run(steps=("7000",))
    assert not folder_of(7000).exists()


def test_wrong_eos_in_the_config_is_corrected(hub, models):
    config = models[1000]["config.json"].replace(b'"eos_token_id": 299', b'"eos_token_id": 0')
    assert config != models[1000]["config.json"]
    hub.add("model", REPOSITORY, models[1000] | {"config.json": config}, ref="step7000-tokens28B")
    run(steps=("7000",))
    assert read_json(folder_of(7000) / "config.json")["eos_token_id"] == 299
    assert read_sidecar(folder_of(7000))["eos_mended"] == {"config.json": {"was": 0, "now": 299}}


def test_revision_without_tokenizer_gets_that_of_main(hub, models):
    files = {name: data for name, data in models[1000].items() if not name.startswith("token")}
    hub.add("model", "toy/bare", files, ref="step10")
    hub.add("model", "toy/bare", models[None])
    families = folder_of(1000).parents[2] / "families.yaml"
    families.write_text(families.read_text() + "bare: {hub: toy/bare, revision: 'step{step}'}\n")
    download.main(download.Args(family="bare", steps=("10",)))
    assert AutoTokenizer.from_pretrained(Checkpoint("bare", 10).folder).eos_token_id == 299


def test_a_model_without_a_vocabulary_is_refused_before_it_is_downloaded(hub, models, base_dir):
    """transformers makes an empty tokenizer of a tokenizer_config.json alone."""
    files = {name: data for name, data in models[1000].items() if name != "tokenizer.json"}
    hub.add("model", "toy/bare", files, ref="step10")
    hub.add("model", "toy/bare", {"README.md": "x"})
    (base_dir / "families.yaml").write_text("bare: {hub: toy/bare, revision: 'step{step}'}\n")
    with pytest.raises(UserError, match=r"toy/bare step10 has no tokenizer\.json .* and `main` has none"):
        download.main(download.Args(family="bare", steps=("10",)))
    assert not hub.requests_of("resolve/.*safetensors")


def test_the_vocabulary_of_main_comes_with_all_its_files(hub, models, base_dir):
    files = {name: data for name, data in models[1000].items() if name != "tokenizer.json"}
    hub.add(
        "model", "toy/bare", files | {"tokenizer_config.json": b'{"tokenizer_class": "GPTNeoXTokenizer"}'}, ref="step10"
    )
    hub.add("model", "toy/bare", models[None] | {"added_tokens.json": b'{"<extra>": 300}'})
    (base_dir / "families.yaml").write_text("bare: {hub: toy/bare, revision: 'step{step}'}\n")
    download.main(download.Args(family="bare", steps=("10",)))
    made = Checkpoint("bare", 10).folder
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (made / name).read_bytes() == models[None][name]
    assert AutoTokenizer.from_pretrained(made).convert_tokens_to_ids("<extra>") == 300


def test_only_the_files_that_are_loaded_are_downloaded(hub, models):
    others = dict.fromkeys(("model.fp16.safetensors", "consolidated.safetensors", "tf_model.h5"), b"x" * 100)
    hub.add("model", REPOSITORY, others, ref="step1000-tokens4B")
    run(steps=("1000",))
    assert {path.name for path in folder_of(1000).iterdir()} == {*models[1000], "meta.json"} - {"modeling.py"}


def test_tied_weights_that_are_stored_twice_with_different_values_are_refused(hub, models, base_dir):
    config = models[1000]["config.json"].replace(b'"tie_word_embeddings": false', b'"tie_word_embeddings": true')
    assert config != models[1000]["config.json"]
    hub.add("model", REPOSITORY, {"config.json": config}, ref="step1000-tokens4B")
    with pytest.raises(UserError, match=r'ties lm_head\.weight .*"tie_word_embeddings": false'):
        run(steps=("1000",))
    assert not folder_of(1000).exists()


def test_missing_steps_repositories_and_stores_are_named(hub, base_dir):
    with pytest.raises(UserError, match=r"no checkpoint of step 1500 \(nearest: 1000, 2000\)"):
        run(steps=("1500",))
    (base_dir / "families.yaml").write_text("toy: {hub: toy/none, revision: 'step{step}'}\n")
    with pytest.raises(UserError, match=r"toy/none: no such repository, or a private one"):
        run(steps=("1500",))
    (base_dir / "families.yaml").write_text(f"toy: {{hub: {REPOSITORY}, revision: 'ckpt_{{step}}'}}\n")
    with pytest.raises(UserError, match=r"has no revision like ckpt_\{step\}; correct `revision` of toy"):
        run(list=True)
    for name, message in (("local_hf", "no store of family local_hf"), ("tiny", "no store of family tiny")):
        with pytest.raises(UserError, match=message):
            download.main(download.Args(family=name, list=True))
    with pytest.raises(UserError, match="not for the Hub"):
        download.main(download.Args(family="amber", steps=("1",), with_optimizer=True))


def test_models_are_never_loaded_in_parallel(base_dir, monkeypatch):
    """Loading in parallel would leave transformers patched, and later models of the process untied."""
    loading, num_loading = [], []

    def load(*_, **__):
        loading.append(1)
        num_loading.append(len(loading))
        time.sleep(0.01)
        loading.pop()

    monkeypatch.setattr(sanitize, "load_model", load)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: sanitize.check_weights(base_dir, None), range(8)))
    assert num_loading == [1] * 8
