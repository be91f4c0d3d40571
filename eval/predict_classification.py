"""Predict labels: eval/predict.py restricted to evaluation files of kind `labels`.

Reads and writes the same files, and takes the same arguments.

    python eval/predict_classification.py --model_name_or_path output/tiny_tf_ckpts/checkpoint-600 \\
        --input_files data/evaluation/rte.jsonl data/evaluation/mrpc.jsonl
"""

from eval.predict import Args, predict_files
from open_instruct.common.cli import run


def main(args: Args) -> None:
    predict_files(args, only_kind="labels")


if __name__ == "__main__":
    run(main, Args)
