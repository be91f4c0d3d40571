"""Predict evaluation files with one model: generations, labels, and log-likelihoods of the gold completions.

Reads   evaluation files with their sidecars (kind, evaluation set, format), a model folder in transformers format and,
        for few-shot prompts, the exemplars beside each evaluation file.
Writes  output/predictions/{eval_set}[_{format}]_{model_id}[_{n}shots].jsonl: each evaluation record and "gold_logprob"
        (nats, EOS not included), for kind generation "output" and "finished", for kind labels "output" and "scores".

    python eval/predict.py --model_name_or_path output/tiny_tf_ckpts/checkpoint-600 \
        --input_files data/evaluation/socialiqa.jsonl data/evaluation/rte.jsonl

Files that are done are skipped; an interrupted file is resumed from `{output}.partial`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.prediction import model_loading
from eval.prediction.prediction_spec import (
    DEFAULT_CONSTRAINTS,
    Constraint,
    GenerationSettings,
    PredictionSpec,
    identify_evaluation,
    label_texts,
    needs_generation,
    read_exemplars,
    require_distinct_outputs,
    sample_items,
)
from eval.prediction.resumable_jsonl import require_own_partial
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.tasks import PROTOCOLS


@dataclass(frozen=True)
class Args:
    model_name_or_path: Path
    """Folder of the model, in transformers format."""
    input_files: tuple[Path, ...]
    """Evaluation files, as format_generalization.py writes them."""
    tokenizer_name_or_path: Path | None = None
    """Folder of the tokenizer (default: the model's folder)."""
    output_file: Path | None = None
    """Prediction file, for a single input file (default: in output/predictions/, named by evaluation set and model)."""
    num_shots: int = 0
    """Exemplars before each item."""
    batch_size: int | None = None
    """Items per batch (default: as many as fit into a budget of tokens)."""
    max_new_tokens: int = 60
    """Maximum length of a generation, in tokens."""
    do_sample: bool = False
    """Sample instead of greedy decoding."""
    temperature: float = 1.0
    """Sampling temperature."""
    top_p: float = 1.0
    """Sample from the fewest most likely tokens whose probabilities add up to this."""
    seed: int = 42
    """Sampling seed."""
    use_chat_format: bool = False
    """Format each item as a user's turn, for models that were fine-tuned on chats."""
    load_in_float16: bool = False
    """Load the weights in float16 instead of float32."""
    limit: tuple[int, ...] = ()
    """Evaluate only this many items, the same for every model: one number for all input files, or one for each
    (default: all items)."""
    truncate_left: bool = False
    """Truncate prompts that are too long for the model on the left, and count them (default: refuse them)."""
    stop_at_newline: bool = False
    """End a generation at its first line break."""
    constraint_type: Constraint | None = None
    """How a label is predicted: by the log-likelihood of the whole label (label), by its most likely sub-token
    (next_word), by greedy decoding constrained to labels (constraint), or by free generation (none)
    (default: label; next_word in the paper's protocol)."""
    use_vllm: bool = False
    """Generate with vLLM, on a GPU; log-likelihoods are computed by transformers in any case."""
    overwrite: bool = False
    """Make predictions again that are done, or that were made with other arguments."""


def main(args: Args) -> None:
    predict_files(args)


def predict_files(args: Args, only_kind: str | None = None) -> list[Path]:
    """Predict every input file; return the prediction files in the same order."""
    check_arguments(args)
    model_loading.check_folder(args.model_name_or_path)
    model_identity = model_loading.identify(args.model_name_or_path)
    limits = args.limit if len(args.limit) > 1 else (args.limit or (None,)) * len(args.input_files)
    specs = [make_spec(*each, args, model_identity, only_kind) for each in zip(args.input_files, limits, strict=True)]
    outputs = [spec.artifact.path for spec in specs]
    require_distinct_outputs(outputs)
    unfinished = [spec for spec in specs if not is_done(spec.artifact, overwrite=args.overwrite)]
    if unfinished:
        predict(unfinished, args)
    return outputs


def check_arguments(args: Args) -> None:
    """Raises UserError with every problem."""
    problems = []
    if args.output_file and len(args.input_files) != 1:
        problems.append(f"--output_file needs exactly one input file, found {len(args.input_files)}")
    minima = {"num_shots": 0, "max_new_tokens": 1, "batch_size": 1, "limit": 1}
    values = {name: getattr(args, name) for name in minima} | {"limit": min(args.limit, default=None)}
    problems += [
        f"--{name} is {value}; expected at least {minima[name]}"
        for name, value in values.items()
        if value is not None and value < minima[name]
    ]
    if not args.do_sample and (args.temperature, args.top_p) != (1.0, 1.0):
        problems.append("--temperature and --top_p have no effect without --do_sample; add it or leave them out")
    if args.temperature <= 0 or not 0 < args.top_p <= 1:
        problems.append("expected --temperature above 0 and --top_p above 0 and at most 1")
    if len(args.limit) not in (0, 1, len(args.input_files)):
        problems.append(
            f"--limit takes one number or {len(args.input_files)}, one for each file; found {len(args.limit)}"
        )
    if problems:
        raise UserError("; ".join(problems))


def make_spec(
    input_file: Path, limit: int | None, args: Args, model_identity: Mapping[str, Any], only_kind: str | None
) -> PredictionSpec:
    """Raises UserError where the file does not exist, or these arguments do not apply to it."""
    evaluation = identify_evaluation(input_file)
    eval_set, kind = evaluation["eval_set"], evaluation["kind"]
    if only_kind not in (None, kind):
        raise UserError(f"{input_file}: {eval_set} is of kind {kind}, expected {only_kind}; use eval/predict.py")
    if kind == "text" and (args.num_shots or args.use_chat_format):
        raise UserError(f"{input_file}: {eval_set} is plain text; it takes no --num_shots and no --use_chat_format")
    inputs = {"model": args.model_name_or_path, "evaluation": input_file}
    if args.tokenizer_name_or_path:
        inputs["tokenizer"] = args.tokenizer_name_or_path
    if args.num_shots:
        inputs["exemplars"] = paths.exemplar_file(input_file)
        if not inputs["exemplars"].is_file():
            raise UserError(
                f"{inputs['exemplars']}: no such file; --num_shots needs exemplars, and {eval_set} has none"
            )
    protocol = PROTOCOLS[evaluation["protocol"] or "corrected"]
    default_constraint = DEFAULT_CONSTRAINTS[protocol.label_scores]
    constraint = args.constraint_type or default_constraint
    arguments = recorded_arguments(args, generates=needs_generation(kind, constraint)) | {"limit": limit}
    if protocol.name != "corrected":
        arguments["protocol"] = protocol.name
    if kind == "labels" and constraint != default_constraint:
        arguments["constraint_type"] = constraint
    output = args.output_file or paths.prediction_file(
        eval_set, evaluation["format"], model_identity["model_id"], args.num_shots
    )
    labels, parse_order = label_texts(input_file, eval_set) if kind == "labels" else ((), ())
    settings = GenerationSettings(
        args.max_new_tokens, args.stop_at_newline, args.do_sample, args.temperature, args.top_p, args.seed
    )
    return PredictionSpec(
        input_file=input_file,
        kind=kind,
        protocol=protocol,
        limit=limit,
        num_shots=args.num_shots,
        use_chat_format=args.use_chat_format,
        truncate_left=args.truncate_left,
        labels=labels,
        parse_order=parse_order,
        constraint=constraint,
        generation=settings if needs_generation(kind, constraint) else None,
        artifact=Artifact(output, arguments, inputs, {**model_identity, **evaluation, "shots": args.num_shots}),
    )


def recorded_arguments(args: Args, *, generates: bool) -> dict[str, Any]:
    """The arguments that affect the predictions of an evaluation file."""
    names = ["num_shots", "use_chat_format", "load_in_float16", "truncate_left"]
    if generates:
        names += ["max_new_tokens", "stop_at_newline", "do_sample"]
        names += ["temperature", "top_p", "seed"] if args.do_sample else []
        names += ["use_vllm"] if args.use_vllm else []
    return {name: getattr(args, name) for name in names}


def is_done(artifact: Artifact, *, overwrite: bool) -> bool:
    done = artifact.is_done(overwrite=overwrite)
    if done:
        print(f"{artifact.path}: done before")
    return done


def predict(specs: Sequence[PredictionSpec], args: Args) -> None:
    for spec in specs:
        require_own_partial(spec.artifact)
    items = [sample_items(spec.input_file, spec.limit) for spec in specs]
    exemplars = [read_exemplars(spec, each) for spec, each in zip(specs, items, strict=True)]
    # torch and transformers take seconds to import; --help, refusals and finished files do not need them.
    from eval.prediction.runner import CHUNK_ITEMS, Runner

    runner = Runner.load(
        args.model_name_or_path,
        args.tokenizer_name_or_path or args.model_name_or_path,
        float16=args.load_in_float16,
        use_vllm=args.use_vllm and any(spec.generation for spec in specs),
    )
    # All files are checked before the first one is predicted.
    nums_truncated = [runner.count_too_long(*each) for each in zip(specs, items, exemplars, strict=True)]
    for spec, of_file, shots, num_truncated in zip(specs, items, exemplars, nums_truncated, strict=True):
        with spec.artifact.making() as facts:
            facts |= {"num_items": len(of_file), "num_truncated": num_truncated}
            facts |= {"exemplar_ids": [exemplar["id"] for exemplar in shots]}
            chunk_size = args.batch_size or CHUNK_ITEMS
            facts |= runner.predict(spec, of_file, shots, chunk_size=chunk_size, resume=not args.overwrite)


if __name__ == "__main__":
    run(main, Args)
