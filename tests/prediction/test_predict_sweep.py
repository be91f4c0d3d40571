"""Several models and numbers of exemplars in one command, one table."""

import pytest
from toy_evaluation import RTE, as_records
from toy_models import toy_olmo

from eval import predict_sweep
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import write_jsonl


def test_every_model_is_evaluated_with_every_number_of_exemplars(home, capsys):
    toy_olmo(home / "other", seed=1, max_position_embeddings=256)
    write_jsonl(home / "rte.exemplars.jsonl", [{**as_records(RTE)[0], "id": "shot", "prompt": "One:"}])
    args = predict_sweep.Args((home / "rte.jsonl",), (home / "model", home / "other"), num_shots=(0, 1), limit=(4,))
    predict_sweep.main(args)
    table = capsys.readouterr().out.splitlines()
    begin = next(number for number, line in enumerate(table) if line.startswith("model "))
    rows = [line.split("-")[0].split()[:1] + line.split()[1:4] for line in table[begin + 1 : begin + 5]]
    assert rows == [[model, "rte", shots, "4"] for model in ("toy_ckpt7", "other") for shots in ("0", "1")]
    predict_sweep.main(args)
    assert "0 scored, 4 unchanged" in capsys.readouterr().out


def test_num_shots_without_exemplars_is_refused(home):
    with pytest.raises(UserError, match="needs exemplars"):
        predict_sweep.main(predict_sweep.Args((home / "rte.jsonl",), (home / "model",), num_shots=(0, 4)))
