"""Checkpoints that are not what their steps say: identical weights, outlying norms, rising loss."""

import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from toy_models import SENTENCES, toy_native_olmo, toy_olmo

from open_instruct import check_checkpoints as check
from open_instruct.checkpoints import measurement
from open_instruct.checkpoints.duplicates import refuse_duplicates_on_disk
from open_instruct.checkpoints.families import Checkpoint
from open_instruct.common.artifacts import Artifact
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json
from open_instruct.common.paths import REPOSITORY, converted_checkpoint, native_checkpoint
from open_instruct.study.loading import load_study
from open_instruct.study.plan import plan
from open_instruct.study.variants import Variant

STEPS = (0, 20, 60, 200, 600)


def artifact_of(checkpoint: Checkpoint) -> Artifact:
    folder = converted_checkpoint(checkpoint.family, checkpoint.name)
    return Artifact(folder, {}, identity=Variant(checkpoint).identity())


@pytest.fixture
def family(base_dir):
    """Five converted checkpoints whose norms grow linearly with the logarithm of the step."""
    for number, step in enumerate(STEPS):
        artifact = artifact_of(Checkpoint("tiny", step))
        with artifact.making_folder() as (made, _):
            model = toy_olmo(made, seed=number)
            for parameter in model.parameters():
                parameter.data.mul_(20 * (1 + 0.05 * torch.log1p(torch.tensor(float(step)))) / parameter.norm())
            model.save_pretrained(made)


def change_weights(step: int, change) -> None:
    """Rewrite a checkpoint with other weights and a valid sidecar."""
    artifact = artifact_of(Checkpoint("tiny", step))
    path = artifact.path / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    kept = artifact.path.with_name("kept")
    shutil.copytree(artifact.path, kept)
    save_file(tensors, kept / "model.safetensors", metadata={"format": "pt"})
    with artifact.making_folder() as (made, _):
        shutil.copytree(kept, made, dirs_exist_ok=True, ignore=shutil.ignore_patterns("meta.json"))
    shutil.rmtree(kept)


def weights_of(step: int) -> dict[str, torch.Tensor]:
    return load_file(converted_checkpoint("tiny", f"checkpoint-{step}") / "model.safetensors")


def run(**options) -> dict:
    check.main(check.Args(family="tiny", **({"num_documents": 0} | options)))
    return read_json(Artifact(converted_checkpoint("x", "y"), {}).path.parents[1] / "checks" / "tiny.json")


def test_regular_checkpoints_are_not_flagged(family, base_dir, capsys, monkeypatch):
    monkeypatch.setattr(measurement, "heldout_passages", lambda: SENTENCES)
    found = run(num_documents=2, max_seq_length=32)
    # The loss of random weights may rise.
    assert {flag["what"] for flag in found["flags"]} <= {"held-out loss"}
    assert found["shared_weights"] == []
    assert [entry["step"] for entry in found["checkpoints"].values()] == list(STEPS)
    # Random weights give log2(300) bits per token, and a toy token is about 1.5 bytes.
    assert all(1 < entry["bits_per_byte"] < 20 for entry in found["checkpoints"].values())
    assert (base_dir / "output" / "checks" / "tiny.png").read_bytes().startswith(b"\x89PNG")
    assert "checkpoint-600" in capsys.readouterr().out


def test_same_weights_under_two_steps_end_in_an_error(family):
    change_weights(200, lambda tensors: tensors.update(weights_of(20)))
    with pytest.raises(UserError, match="checkpoint-200 and checkpoint-20 share all tensors"):
        run()


def test_one_shared_tensor_is_an_error_and_its_norm_is_flagged(family, base_dir):
    """As in Pythia-12B, whose steps 50000 and 58000 had the embedding of the last one."""
    name = "model.embed_tokens.weight"
    change_weights(60, lambda tensors: tensors.update({name: weights_of(600)[name]}))
    with pytest.raises(
        UserError, match=r"checkpoint-600 and checkpoint-60 share 1 of 1\d tensors, e\.g\. model\.embed_tok"
    ):
        run()
    flags = read_json(base_dir / "output" / "checks" / "tiny.json")["flags"]
    assert [(flag["step"], flag["what"]) for flag in flags] == [(60, name)]


def test_shared_constant_tensors_are_ignored(family):
    for step in STEPS:
        change_weights(step, lambda tensors: tensors.update({"norm.weight": torch.ones(8)}))
    assert run()["shared_weights"] == []


def test_only_a_significant_rise_of_the_loss_is_flagged():
    checkpoints = [Checkpoint("tiny", step) for step in (1, 2, 3, 4)]
    losses = [[3.0, 4.0, 5.0, 3.5], [2.0, 3.1, 4.0, 2.4], [2.3, 3.4, 4.2, 2.8], [2.4, 3.1, 4.4, 2.6]]
    flags = check.rising_losses(checkpoints, [{"bits_per_byte": row} for row in losses])
    assert [(flag.step, flag.what) for flag in flags] == [(3, "held-out loss")]
    assert "2.875 -> 3.175 bits per byte since checkpoint-2" in flags[0].reason


def test_finished_measurements_are_reused_and_other_arguments_refused(family, monkeypatch):
    run()
    monkeypatch.setattr(measurement, "measure", lambda *_: pytest.fail("measured"))
    run()
    with pytest.raises(UserError, match="num_documents was 0, now 3"):
        run(num_documents=3)


def test_missing_checkpoints_are_named(base_dir):
    with pytest.raises(UserError, match="has no finished checkpoint"):
        run()
    with pytest.raises(UserError, match=r"no finished checkpoint of step 5, 7"):
        run(steps=(5, 7))


# --- before a study ---


def test_study_with_duplicate_checkpoints_is_refused(base_dir, monkeypatch):
    for step in STEPS:
        toy_native_olmo(native_checkpoint("tiny", f"checkpoint-{step}"), seed=step)
    path = base_dir / "study.yaml"
    path.write_text((REPOSITORY / "scripts" / "studies" / "tiny.yaml").read_text())
    study = load_study(path)
    assert plan(study)
    # The file saved again has other bytes and the same tensors.
    path_200 = native_checkpoint("tiny", "checkpoint-200") / "model.pt"
    torch.save(torch.load(native_checkpoint("tiny", "checkpoint-60") / "model.pt", weights_only=True), path_200)
    with pytest.raises(
        UserError, match=r"checkpoint-200/model\.pt is the same as .*checkpoint-60/model\.pt; leave one"
    ):
        plan(study)
    raw = yaml.safe_load(path.read_text()) | {"steps": [0, 20, 60, 600]}
    path.write_text(yaml.safe_dump(raw))
    assert plan(load_study(path))


def test_duplicate_converted_checkpoints_are_refused(family):
    refuse_duplicates_on_disk([Checkpoint("tiny", step) for step in STEPS])
    change_weights(200, lambda tensors: tensors.update(weights_of(20)))
    with pytest.raises(
        UserError, match=r"checkpoint-200/model\.safetensors is the same as .*checkpoint-20/model\.safe"
    ):
        refuse_duplicates_on_disk([Checkpoint("tiny", step) for step in STEPS])
    refuse_duplicates_on_disk([Checkpoint("tiny", step) for step in STEPS if step != 200])


def test_only_the_first_step_may_have_the_weights_of_another_run(base_dir):
    for step, run in ((0, None), (0, "seed2"), (5, None), (5, "seed2")):
        folder = Checkpoint("tiny", step, run).model_folder
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_text(str(step))
    refuse_duplicates_on_disk([Checkpoint("tiny", 0), Checkpoint("tiny", 0, "seed2"), Checkpoint("tiny", 5)])
    with pytest.raises(UserError, match=r"tiny_seed2_tf_ckpts/checkpoint-5/model.safetensors is the same as .*tiny_tf"):
        refuse_duplicates_on_disk([Checkpoint("tiny", 5), Checkpoint("tiny", 5, "seed2")])
