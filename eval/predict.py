"""Predict evaluation files with one model: generations, labels, and log-likelihoods of the gold completions.

Reads   evaluation files with their sidecars (kind, evaluation set, format), a model folder in transformers format and,
        for few-shot prompts, the exemplars beside each evaluation file.
Writes  output/predictions/{eval_set}[_{format}]_{model_id}[_{n}shots].jsonl: each evaluation record and "gold_logprob"
        (nats, EOS not included), for kind generation "output" and "finished", for kind labels "output" and "scores".

    python eval/predict.py --model_name_or_path output/tiny_tf_ckpts/checkpoint-600 \\
        --input_files data/evaluation/socialiqa.jsonl data/evaluation/rte.jsonl

Files that are done are skipped; an interrupted file is resumed from `{output}.partial`.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from eval.prediction import model_loading
from eval.prediction.prediction_spec import (
    GenerationSettings,
    PredictionSpec,
    identify_evaluation,
    label_texts,
    no_exemplars,
    prepare,
    require_distinct_outputs,
)
from eval.prediction.resumable_jsonl import require_own_partial
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.model_files import require_loadable
from open_instruct.common.naming import in_words
from open_instruct.common.naming import suffix as suffix_of
from open_instruct.study.settings import DEFAULT_MAX_NEW_TOKENS, PredictionOptions, evaluation_suffix, recorded
from open_instruct.study.variants import identify
from open_instruct.tasks import PROTOCOLS


@dataclass(frozen=True)
class Args(PredictionOptions):
    model_name_or_path: str
    """Folder of the model in transformers format, or its name on the Hub: owner/repository[/folder]."""
    input_files: tuple[Path, ...]
    """Evaluation files, as format_generalization.py writes them."""
    model_revision: str | None = None
    """Branch, tag or commit of a model of the Hub."""
    model_name: str | None = None
    """Id of a model of your own (default: derived from its folder)."""
    tokenizer_name_or_path: Path | None = None
    """Folder of the tokenizer (default: the model's folder)."""
    output_file: Path | None = None
    """Prediction file, for a single input file (default: in output/predictions/, named by evaluation set and model)."""
    num_shots: int = 0
    """Exemplars before each item."""
    limit: tuple[int | Literal["all"], ...] = ()
    """Evaluate only this many items, the same for every model: one number for all input files, or one for each
    (default: all items)."""
    load_in_float16: bool = False
    """The same as --dtype float16."""
    batch_size: int | None = None
    """Items per batch (default: as many as fit into a budget of tokens)."""
    overwrite: bool = False
    """Make predictions again that are done, or that were made with other arguments."""


def main(args: Args) -> None:
    predict_files(args)


def predict_files(args: Args, only_kind: str | None = None) -> list[Path]:
    """Predict every input file; return the prediction files in the same order."""
    check_arguments(args)
    args = with_dtype(args)
    folder = model_loading.find_folder(str(args.model_name_or_path), args.model_revision)
    specs = make_specs(args, folder, only_kind)
    outputs = [spec.artifact.path for spec in specs]
    require_distinct_outputs(outputs)
    unfinished = [spec for spec in specs if not is_done(spec.artifact, overwrite=args.overwrite)]
    if unfinished:
        predict(unfinished, args, folder)
    return outputs


def artifacts(args: Args) -> list[Artifact]:
    """What this command line writes, for the plan of a study."""
    folder = model_loading.find_folder(str(args.model_name_or_path), args.model_revision)
    return [spec.artifact for spec in make_specs(with_dtype(args), folder)]


def with_dtype(args: Args) -> Args:
    return replace(args, dtype="float16") if args.load_in_float16 else args


def make_specs(args: Args, folder: Path, only_kind: str | None = None) -> list[PredictionSpec]:
    """One for each input file.  folder: of the model."""
    identity = identify(
        folder, name=str(args.model_name_or_path), revision=args.model_revision, model_id=args.model_name
    )
    given = args.limit if len(args.limit) > 1 else (args.limit or ("all",)) * len(args.input_files)
    limits = [None if limit == "all" else limit for limit in given]
    return [make_spec(*e, args, folder, identity, only_kind) for e in zip(args.input_files, limits, strict=True)]


def check_arguments(args: Args) -> None:
    """Raises UserError with every problem."""
    problems = []
    if args.output_file and len(args.input_files) != 1:
        problems.append(f"--output_file needs exactly one input file, found {len(args.input_files)}")
    if not args.do_sample and (args.temperature, args.top_p) != (1.0, 1.0):
        problems.append("--temperature and --top_p have no effect without --do_sample; add it or leave them out")
    if args.load_in_float16 and args.dtype == "bfloat16":
        problems.append("--load_in_float16 is --dtype float16, found --dtype bfloat16, too; leave one out")
    if args.use_vllm and importlib.util.find_spec("vllm") is None:
        problems.append("--use_vllm: not installed; `pip install vllm` where there is a GPU, or leave out --use_vllm")
    if len(args.limit) not in (0, 1, len(args.input_files)):
        problems.append(
            f"--limit takes one number or {len(args.input_files)}, one for each file; found {len(args.limit)}"
        )
    if problems:
        raise UserError("; ".join(problems))


def make_spec(
    input_file: Path,
    limit: int | None,
    args: Args,
    folder: Path,
    model_identity: Mapping[str, Any],
    only_kind: str | None,
) -> PredictionSpec:
    """Raises UserError where the file does not exist, or these arguments do not apply to it."""
    evaluation = identify_evaluation(input_file)
    eval_set, kind = evaluation["eval_set"], evaluation["kind"]
    if only_kind not in (None, kind):
        raise UserError(
            f"{input_file}: {eval_set} is of kind {kind}, expected {only_kind}; use `python eval/predict.py`"
        )
    if kind == "text" and args.num_shots:
        raise UserError(f"{input_file}: {eval_set} is plain text; it takes no --num_shots")
    inputs = {"model": folder, "evaluation": input_file}
    if args.tokenizer_name_or_path:
        inputs["tokenizer"] = args.tokenizer_name_or_path
    if args.num_shots:
        inputs["exemplars"] = paths.exemplar_file(input_file)
        if not inputs["exemplars"].is_file():
            raise UserError(no_exemplars(inputs["exemplars"], eval_set))
    protocol = PROTOCOLS[evaluation["protocol"] or "corrected"]
    options = args.relevant(eval_set, kind, protocol)
    arguments = recorded(options) | {"num_shots": args.num_shots, "limit": limit, "protocol": protocol.name}
    gold_in_prompt = eval_set in protocol.gold_in_prompt
    if protocol.name == "paper":  # predictions from before these were the paper's are not taken for them
        arguments |= {"after_exemplar": protocol.after_exemplar} if args.num_shots else {}
        arguments |= {"end_of_chat": protocol.end_of_chat} if options.use_chat_format or gold_in_prompt else {}
    suffix = evaluation_suffix(options, num_shots=args.num_shots, limit=limit)
    data_settings = evaluation.get("data_settings", "")
    output = args.output_file or paths.prediction_file(
        eval_set, evaluation["format"], model_identity["model_id"], data_settings + suffix
    )
    labels, parse_order = label_texts(input_file, eval_set) if kind == "labels" else ((), ())
    generates = options.generates(kind, protocol)
    max_new_tokens = args.max_new_tokens
    if generates and max_new_tokens == DEFAULT_MAX_NEW_TOKENS:
        max_new_tokens = evaluation.get("max_new_tokens", max_new_tokens)
        arguments["max_new_tokens"] = max_new_tokens
    settings = GenerationSettings(
        max_new_tokens, args.stop_at_newline, args.do_sample, args.temperature, args.top_p, args.seed
    )
    # What differs from the default beside shots and items has one column in tables.
    conditions = in_words(data_settings + suffix_of(options))
    identity = {**model_identity, **evaluation, "shots": args.num_shots, "limit": limit, "conditions": conditions}
    return PredictionSpec(
        input_file=input_file,
        kind=kind,
        protocol=protocol,
        limit=limit,
        num_shots=args.num_shots,
        use_chat_format=options.use_chat_format or gold_in_prompt,
        gold_in_prompt=gold_in_prompt,
        truncate_left=args.truncate_left,
        labels=labels,
        parse_order=parse_order,
        constraint=options.constraint(protocol),
        generation=settings if generates else None,
        artifact=Artifact(output, arguments, inputs, identity),
    )


def is_done(artifact: Artifact, *, overwrite: bool) -> bool:
    done = artifact.is_done(overwrite=overwrite)
    if done:
        print(f"{artifact.path}: done before")
    return done


def predict(specs: Sequence[PredictionSpec], args: Args, folder: Path) -> None:
    for spec in specs:
        require_own_partial(spec.artifact)
    prepared = [prepare(spec) for spec in specs]
    require_loadable(folder, args.tokenizer_name_or_path or folder, option="--tokenizer_name_or_path")
    # torch and transformers take seconds to import; --help, refusals and finished files do not need them.
    from eval.prediction.runner import CHUNK_ITEMS, Runner

    runner = Runner.load(
        folder,
        args.tokenizer_name_or_path or folder,
        dtype=args.dtype,
        add_bos_token=args.add_bos_token,
        use_vllm=args.use_vllm and any(spec.generation for spec in specs),
    )
    # All files are checked before the first one is predicted.
    nums_truncated = [
        runner.count_too_long(spec, one.items, one.exemplars) for spec, one in zip(specs, prepared, strict=True)
    ]
    for spec, one, num_truncated in zip(specs, prepared, nums_truncated, strict=True):
        if one.num_left_out:
            print(f"{spec.input_file}: {one.num_left_out} items left out, for they are exemplars")
        with spec.artifact.making() as facts:
            facts |= {"num_items": len(one.items), "num_left_out": one.num_left_out, "num_truncated": num_truncated}
            facts |= {"exemplar_ids": [exemplar["id"] for exemplar in one.exemplars]}
            chunk_size = args.batch_size or CHUNK_ITEMS
            facts |= runner.predict(spec, one.items, one.exemplars, chunk_size=chunk_size, resume=not args.overwrite)


if __name__ == "__main__":
    run(main, Args)
