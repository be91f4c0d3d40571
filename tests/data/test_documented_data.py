"""The examples of docs/data.md do what the page says: own datasets are declared, records are read."""

import json
import re
from pathlib import Path

from toy_datasets import json_lines

from eval.metrics.prediction_files import identify_predictions, read_predictions
from eval.prediction.prediction_spec import identify_evaluation, sample_items
from open_instruct import format_generalization
from open_instruct.common import paths
from open_instruct.common.json_files import read_jsonl
from open_instruct.common.paths import REPOSITORY
from open_instruct.data.registry import read_datasets
from open_instruct.data.train_records import read_train_records
from open_instruct.format_generalization import Args

PAGE = (REPOSITORY / "docs" / "data.md").read_text(encoding="utf-8")
YAML = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
TRAIN, EVALUATION, PREDICTIONS, _CONTAMINATION = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)


def one_record_each(folder: Path, lines: str) -> list[Path]:
    files = []
    for number, line in enumerate(lines.splitlines()):
        files.append(folder / f"{number}.jsonl")
        files[-1].write_text(line + "\n", encoding="utf-8")
    return files


def test_the_datasets_of_the_page_are_declared_and_formatted(tmp_path):
    (tmp_path / "study.yaml").write_text(YAML[0], encoding="utf-8")
    datasets = read_datasets(tmp_path / "study.yaml")
    assert {"support_tickets", "short_answers", "house_style"} <= {*datasets.train_sets}
    assert datasets.eval_set("short_answers").role == "out-of-domain of socialiqa"
    assert "house_style" not in datasets.eval_sets
    (tmp_path / "tickets").mkdir()
    for part, num_rows in (("train-0", 40), ("test", 4)):
        rows = [{"body": f"{part} {i} is late", "topic": i % 2, "user_id": i} for i in range(num_rows)]
        (tmp_path / "tickets" / f"{part}.jsonl").write_bytes(json_lines(rows))
    names = ("support_tickets",)
    format_generalization.main(Args(names, names, datasets_file=tmp_path / "study.yaml"))
    (first, *_) = read_jsonl(paths.evaluation_file("support_tickets", "instruct"))
    assert first["prompt"] == "What is this ticket about? test 0 is late"
    assert (first["completion"], first["cluster"]) == (" billing", "0")


def test_the_text_sets_of_the_page_are_declared_by_source(tmp_path):
    (tmp_path / "study.yaml").write_text(YAML[1], encoding="utf-8")
    datasets = read_datasets(tmp_path / "study.yaml")
    assert {name: datasets.eval_set(name).metric for name in ("news", "forums")} == dict.fromkeys(
        ("news", "forums"), "bits_per_byte"
    )
    assert datasets.eval_set("news").cluster == "subdomain"


def test_train_records_of_the_page_are_trained_on(tmp_path):
    pair, chat = (read_train_records(path)[0] for path in one_record_each(tmp_path, TRAIN))
    assert pair["prompt"].endswith("Question:")
    assert chat["messages"][1] == {"role": "assistant", "content": "Hello."}


def test_evaluation_records_of_the_page_are_of_the_three_kinds(tmp_path):
    files = one_record_each(tmp_path, EVALUATION)
    assert [identify_evaluation(path)["kind"] for path in files] == ["generation", "labels", "text"]
    assert [len(sample_items(path, None)) for path in files] == [1, 1, 1]


def test_predictions_of_the_page_are_scored(tmp_path):
    for path, record in zip(one_record_each(tmp_path, PREDICTIONS), EVALUATION.splitlines(), strict=True):
        (prediction,) = read_predictions(path, identify_predictions(path)["kind"])
        assert json.loads(record).items() <= prediction.items()
