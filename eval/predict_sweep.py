"""Predict evaluation files with several models and numbers of exemplars, score them, and print one table.

Reads and writes the files of eval/predict.py and eval/eval_pred.py; files that are done are skipped.

    python eval/predict_sweep.py --num_shots 0 4 \\
        --model_name_or_path output/tiny_tf_ckpts/checkpoint-60 output/tiny_tf_ckpts/checkpoint-600 \\
        --input_files data/evaluation/socialiqa.jsonl data/evaluation/rte.jsonl
"""

from dataclasses import dataclass
from pathlib import Path

from eval import eval_pred, predict
from open_instruct.common.cli import option, run


@dataclass(frozen=True)
class Args:
    input_files: tuple[Path, ...]
    """Evaluation files, as format_generalization.py writes them."""
    model_name_or_path: tuple[Path, ...] = option("models")
    """Folders of models in transformers format."""
    num_shots: tuple[int, ...] = (0,)
    """Numbers of exemplars before each item; every model is evaluated with each."""
    limit: tuple[int, ...] = ()
    """Evaluate only this many items, the same for every model: one number for all files, or one for each
    (default: all items)."""
    max_new_tokens: int = 60
    """Maximum length of a generation, in tokens."""
    stop_at_newline: bool = False
    """End a generation at its first line break."""
    truncate_left: bool = False
    """Truncate prompts that are too long for the model on the left, and count them (default: refuse them)."""


def main(args: Args) -> None:
    predictions: list[Path] = []
    for model in args.model_name_or_path:
        for num_shots in args.num_shots:
            predictions += predict.predict_files(
                predict.Args(
                    str(model),
                    args.input_files,
                    num_shots=num_shots,
                    limit=args.limit,
                    max_new_tokens=args.max_new_tokens,
                    stop_at_newline=args.stop_at_newline,
                    truncate_left=args.truncate_left,
                )
            )
    eval_pred.main(eval_pred.Args(input_files=tuple(predictions)))


if __name__ == "__main__":
    run(main, Args)
