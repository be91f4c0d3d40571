"""Every script that writes, as a toy command in $base_dir: prepared, with its outputs."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import toy_datasets
from foreign_files import Output, remove
from released_tables import write_released
from simulated_study import write_study
from toy_evaluation import RTE, SCIQ, TEXT, write_evaluation
from toy_models import toy_native_olmo, toy_olmo, toy_tokenizer
from toy_training import toy_training

from analysis import compare_paper, produce_tables, report
from eval import eval_pred, interpolate_weights, perturb_weights, predict, predict_classification, weight_distance
from olmo_eval import run_lm_eval
from open_instruct import (
    check_checkpoints,
    check_contamination,
    check_data,
    finetune,
    format_generalization,
    merge_lora,
    pretrain_tiny,
)
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.sidecars import has_sidecar
from open_instruct.olmo_hf import convert_olmo_to_tf


@dataclass(frozen=True)
class Command:
    main: Callable[[Any], None]
    args: Any
    outputs: tuple[Output, ...]
    again: Any = None
    """Arguments that make the outputs again; those of scripts without --overwrite always do."""

    @property
    def overwriting(self) -> Any:
        return self.again or replace(self.args, overwrite=True)

    @property
    def all_args(self) -> tuple[Any, ...]:
        return (self.args,) if self.again is self.args else (self.args, self.overwriting)


def outputs_of(
    main: Callable[[Any], None], args: Any, folder: Path, working: tuple[str, ...] = ()
) -> tuple[Output, ...]:
    """The outputs of a command in `folder`, under names that carry its settings."""
    before = set(folder.rglob("*"))
    main(args)
    made = [path for path in sorted(folder.rglob("*")) if path not in before and has_sidecar(path)]
    outputs = tuple(Output(path, path.is_dir(), working) for path in made)
    assert len(outputs) > 1, outputs
    for output in outputs:
        remove(output.path)
    return outputs


def finetuning(base: Path) -> Command:
    args = toy_training()
    args = replace(args, output_dir=base / "output" / "tuned", max_train_steps=2, checkpointing_steps="1")
    output = Output(base / "output" / "tuned", is_folder=True, working=("{}.state/",))
    return Command(finetune.main, args, (output,))


def adapter_merging(base: Path) -> Command:
    adapter = base / "adapter"
    args = replace(toy_training(), output_dir=adapter, max_train_steps=1, use_lora=True, keep_weights="lora")
    finetune.main(args)
    merged = base / "output" / "merged"
    return Command(merge_lora.main, merge_lora.Args(str(adapter), merged), (Output(merged, is_folder=True),))


def conversion(base: Path) -> Command:
    toy_native_olmo(base / "native")
    toy_tokenizer(base / "tokenizer")
    output = base / "converted"
    args = convert_olmo_to_tf.Args(
        "tiny", 300, input_dir=base / "native", output_dir=output, tokenizer_name_or_path=str(base / "tokenizer")
    )
    return Command(convert_olmo_to_tf.main, args, (Output(output, is_folder=True),))


def formatting(base: Path) -> Command:
    toy_datasets.fill_mirror(base / "mirror", as_json_lines=True)
    args = format_generalization.Args(
        ("paws",), ("paws", "rte"), source="local", local_dir=base / "mirror", any_row_count=True
    )
    return Command(format_generalization.main, args, outputs_of(format_generalization.main, args, paths.data_dir()))


def pretraining(base: Path) -> Command:
    args = pretrain_tiny.Args(steps=(0,), d_model=16, num_layers=1, num_heads=2, vocab_size=300)
    return Command(pretrain_tiny.main, args, outputs_of(pretrain_tiny.main, args, base / "output"))


def model_and_evaluation(base: Path) -> None:
    for rows in (RTE, SCIQ, TEXT):
        write_evaluation(base / f"{rows[0][0]}.jsonl", rows)
    with Artifact(base / "model", {}, identity={"model_id": "toy_ckpt7", "step": 7}).making_folder() as (made, _):
        toy_olmo(made, max_position_embeddings=256)


def prediction(base: Path) -> Command:
    model_and_evaluation(base)
    args = predict.Args(str(base / "model"), (base / "rte.jsonl", base / "sciq.jsonl"), max_new_tokens=2)
    outputs = outputs_of(predict.main, args, base / "output" / "predictions", working=("{}.partial",))
    return Command(predict.main, args, outputs)


def classification(base: Path) -> Command:
    model_and_evaluation(base)
    output = base / "predicted" / "rte.jsonl"
    args = predict.Args(str(base / "model"), (base / "rte.jsonl",), output_file=output)
    return Command(predict_classification.main, args, (Output(output, working=("{}.partial",)),))


def scoring(base: Path) -> Command:
    command = prediction(base)
    command.main(command.args)
    files = tuple(output.path for output in command.outputs)
    args = eval_pred.Args(input_files=files, num_resamples=10)
    return Command(eval_pred.main, args, outputs_of(eval_pred.main, args, base / "output" / "predictions"))


def comparison(base: Path) -> Command:
    command = scoring(base)
    command.main(command.args)
    file, output = command.args.input_files[0], base / "differences.json"
    args = eval_pred.Args(input_files=(file,), against=(file,), num_resamples=10, differences_file=output)
    return Command(eval_pred.main, args, (Output(output),), again=args)


def suite(base: Path) -> Command:
    model_and_evaluation(base)
    args = run_lm_eval.Args(model_name_or_path=str(base / "model"), tasks=("copa", "openbookqa"), limit=2)
    return Command(run_lm_eval.main, args, outputs_of(run_lm_eval.main, args, base / "eval_results"))


def suite_in_one_file(base: Path) -> Command:
    model_and_evaluation(base)
    metrics, full = base / "suite" / "metrics.json", base / "suite" / "full.jsonl"
    args = run_lm_eval.Args(
        model_name_or_path=str(base / "model"),
        tasks=("copa", "openbookqa"),
        limit=2,
        metrics_file=metrics,
        full_output_file=full,
    )
    return Command(run_lm_eval.main, args, (Output(metrics), Output(full, working=("{}.partial",))))


def checkpoint_checks(base: Path) -> Command:
    toy_training()
    args = check_checkpoints.Args("tiny", num_documents=1, max_seq_length=8)
    folder = base / "output" / "checks"
    files = (folder / "tiny_checkpoint-7.json", folder / "tiny.json", folder / "tiny.png")
    return Command(check_checkpoints.main, args, tuple(map(Output, files)))


def data_checks(base: Path) -> Command:
    write_evaluation(paths.evaluation_file("heldout_text"), TEXT)
    args = check_data.Args(html=base / "page.html")
    return Command(check_data.main, args, (Output(base / "page.html"),), again=args)


def contamination_checks(base: Path) -> Command:
    write_evaluation(paths.evaluation_file("heldout_text"), TEXT)
    (base / "text").mkdir()
    (base / "text" / "a.jsonl").write_text('{"text": "The cat sat on the mat."}\n')
    args = check_contamination.Args((paths.evaluation_file("heldout_text"),), base / "text", num_workers=1)
    output = Output(base / "output" / "checks" / "contamination_evaluation_heldout_text.jsonl")
    return Command(check_contamination.main, args, (output,))


def noise(base: Path) -> Command:
    model_and_evaluation(base)
    args = perturb_weights.Args((base / "model",), base / "heldout_text.jsonl", sizes=(0.1,), num_draws=2)
    output = paths.perturbation_file("heldout_text", "default", "toy_ckpt7")
    return Command(perturb_weights.main, args, (Output(output),))


def distances(base: Path) -> Command:
    model_and_evaluation(base)
    toy_olmo(base / "other", max_position_embeddings=256, seed=1)
    args = weight_distance.Args((base / "model",), base / "other")
    return Command(weight_distance.main, args, (Output(paths.weight_distance_file("toy_ckpt7")),))


def interpolation(base: Path) -> Command:
    model_and_evaluation(base)
    toy_olmo(base / "other", max_position_embeddings=256, seed=1)
    args = interpolate_weights.Args((base / "model",), base / "other", base / "heldout_text.jsonl", alphas=(0.0, 1.0))
    output = paths.interpolation_file("heldout_text", "default", "toy_ckpt7")
    return Command(interpolate_weights.main, args, (Output(output),))


def tables(base: Path) -> Command:
    args = produce_tables.Args(study=write_study(base, num_items=4))
    folder = paths.results_dir("simulated")
    names = ("measurements.parquet", "all_perf_table.csv", "missing.csv")
    outputs = (*(Output(folder / name) for name in names), Output(folder / "tables", is_folder=True))
    return Command(produce_tables.main, args, outputs, again=args)


def page(base: Path) -> Command:
    args = report.Args(study=write_study(base, num_items=4))
    folder = paths.results_dir("simulated")
    return Command(report.main, args, (Output(folder / "report.html"),), again=args)


def paper_comparison(base: Path) -> Command:
    write_study(base, num_items=4)
    produce_tables.main(produce_tables.Args())
    args = compare_paper.Args(released=write_released(base / "released"))
    output = Output(paths.results_dir("all") / "paper", is_folder=True)
    return Command(compare_paper.main, args, (output,), again=args)


COMMANDS: dict[str, Callable[[Path], Command]] = {
    "finetune": finetuning,
    "merge_lora": adapter_merging,
    "convert": conversion,
    "format": formatting,
    "pretrain_tiny": pretraining,
    "predict": prediction,
    "predict_classification": classification,
    "eval_pred": scoring,
    "eval_pred differences": comparison,
    "run_lm_eval": suite,
    "run_lm_eval in one file": suite_in_one_file,
    "check_checkpoints": checkpoint_checks,
    "check_contamination": contamination_checks,
    "check_data": data_checks,
    "perturb_weights": noise,
    "weight_distance": distances,
    "interpolate_weights": interpolation,
    "produce_tables": tables,
    "report": page,
    "compare_paper": paper_comparison,
}
