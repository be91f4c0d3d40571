"""The example of a task in CONTRIBUTING.md, as a user would follow it: one new file, and the script."""

import re
from importlib import import_module

import toy_datasets

from open_instruct import format_generalization, tasks
from open_instruct.common import paths
from open_instruct.common.json_files import read_jsonl
from open_instruct.common.paths import REPOSITORY
from open_instruct.format_generalization import Args


def test_one_new_module_adds_a_task(tmp_path, monkeypatch):
    found = re.search(r"```python\n(.*?)```", (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found
    (tmp_path / "cola.py").write_text(found[1])
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path)])
    monkeypatch.setattr(tasks, "MODULES", [*tasks.MODULES, import_module("open_instruct.tasks.cola")])
    monkeypatch.setitem(tasks.EVAL_SETS, "cola", tasks.named("EVAL_SETS")["cola"])

    rows = [{"sentence": f"Cat {i} sat.", "label": i % 2, "idx": i} for i in range(1_043)]
    mirror = tmp_path / "data" / "mirror" / "nyu-mll" / "glue" / "cola"
    mirror.mkdir(parents=True)
    (mirror / "validation-00000-of-00001.parquet").write_bytes(toy_datasets.parquet(rows))
    format_generalization.main(Args(eval_sets=("cola",), source="local"))
    records = list(read_jsonl(paths.evaluation_file("cola")))
    assert len(records) == 1_043
    prompt = "### Sentence: Cat 1 sat.\n ### Acceptable:"
    assert records[1] == {"dataset": "cola", "id": "cola-1", "prompt": prompt, "completion": " yes"}
    assert next(read_jsonl(paths.evaluation_file("cola", "inputoutput")))["prompt"] == "Cat 0 sat."
