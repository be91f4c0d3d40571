"""Put evaluation files to one model: what it writes, which label it chooses, how likely it finds the gold completion.

Reads   evaluation files with their sidecars (kind, evaluation set, format), a model folder in transformers format and,
        for few-shot prompts, the exemplars beside each evaluation file.
Writes  output/predictions/{eval_set}[_{format}]_{model_id}[_{n}shots].jsonl: each evaluation record and "gold_logprob"
        (nats, EOS not included), for kind generation "output" and "finished", for kind labels "output" and "scores".

    python eval/predict.py --model_name_or_path output/tiny_tf_ckpts/checkpoint-600 \
        --input_files data/evaluation/socialiqa.jsonl data/evaluation/rte.jsonl

A file that is done is skipped; one that was cut short goes on where it stopped (from `{output}.partial`).
"""

import json
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval import model_folder
from eval.partial import Partial, partial_of
from open_instruct import paths
from open_instruct.cli import run
from open_instruct.format_generalization import exemplar_file
from open_instruct.records import Artifact, UserError, atomic_write, read_jsonl, read_sidecar, sidecar_path
from open_instruct.tasks import PROTOCOLS, eval_set_named
from open_instruct.tasks.declarations import Protocol

# torch takes seconds to import: where every file is done, it is not needed.
if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from eval.answers import Question

CHUNK_ITEMS = 512
"""Items that are answered between two writes to the disk."""
LIMIT_SEED = 42
"""Of the shuffle before --limit; fixed, so that every model is asked the same items."""


@dataclass(frozen=True)
class Args:
    model_name_or_path: Path
    """Folder of the model, in transformers format."""
    input_files: tuple[Path, ...]
    """Evaluation files, as format_generalization.py writes them."""
    tokenizer_name_or_path: Path | None = None
    """Folder of the tokenizer (default: the model's folder)."""
    output_file: Path | None = None
    """Where the predictions go, for a single input file (default: output/predictions/, named by what they are)."""
    num_shots: int = 0
    """Exemplars before each item."""
    batch_size: int | None = None
    """Items that are answered at once (default: as many as a budget of tokens holds)."""
    max_new_tokens: int = 60
    """Longest generated text, in tokens."""
    do_sample: bool = False
    """Sample instead of taking the likeliest token."""
    temperature: float = 1.0
    """Of sampling; below 1 sharpens the distribution."""
    top_p: float = 1.0
    """Sample from the fewest likeliest tokens that together have this probability."""
    seed: int = 42
    """Of sampling."""
    use_chat_format: bool = False
    """Put each item as a user's turn, for models that were tuned on chats."""
    load_in_float16: bool = False
    """Load the weights in float16 instead of float32."""
    limit: tuple[int, ...] = ()
    """Ask only this many items, the same for every model: one number for all input files, or one for each
    (default: all items)."""
    truncate_left: bool = False
    """Cut prompts that are too long for the model on the left, and count them (default: refuse them)."""
    stop_at_newline: bool = False
    """End a generated text at its first line break."""
    overwrite: bool = False
    """Make predictions again that are done, or that other arguments made."""


@dataclass(frozen=True)
class Job:
    """One evaluation file, and where its predictions go."""

    input_file: Path
    kind: str
    labels: tuple[str, ...]
    """Words to choose from, for kind `labels`."""
    limit: int | None
    """Items to ask; None: all."""
    protocol: Protocol
    """Under which the evaluation file was made: it says how its items are tokenised and its labels scored."""
    artifact: Artifact


def main(args: Args, only_kind: str | None = None) -> None:
    check_arguments(args)
    model_folder.check_folder(args.model_name_or_path)
    model_identity = model_folder.identify(args.model_name_or_path)
    limits = limit_of_each(args)
    jobs = [plan(*of_file, args, model_identity, only_kind) for of_file in zip(args.input_files, limits, strict=True)]
    require_different([job.artifact.path for job in jobs])
    unfinished = [job for job in jobs if not is_done(job, overwrite=args.overwrite)]
    if not unfinished:
        return
    items = [sample_items(job.input_file, job.limit) for job in unfinished]
    exemplars = [read_exemplars(job, args.num_shots, asked) for job, asked in zip(unfinished, items, strict=True)]
    tokenizer_folder = args.tokenizer_name_or_path or args.model_name_or_path
    model, tokenizer = model_folder.load(args.model_name_or_path, tokenizer_folder, float16=args.load_in_float16)
    # All are encoded before the first is answered, so that what does not fit is refused at once.
    encoded = [encode(*of_job, args, model, tokenizer) for of_job in zip(unfinished, items, exemplars, strict=True)]
    for job, asked, shots, (questions, num_cut) in zip(unfinished, items, exemplars, encoded, strict=True):
        with job.artifact.making() as facts:
            facts |= {"num_items": len(asked), "num_truncated": num_cut, "exemplar_ids": [shot["id"] for shot in shots]}
            facts |= {"dtype": str(model.dtype), "device": str(model.device)}
            facts |= predict(job, asked, questions, args, model, tokenizer)


def check_arguments(args: Args) -> None:
    """Raises UserError that names every problem at once."""
    problems = []
    if args.output_file and len(args.input_files) != 1:
        problems.append(f"--output_file goes with one input file, found {len(args.input_files)}")
    at_least = {"num_shots": 0, "max_new_tokens": 1, "batch_size": 1, "limit": 1}
    values = {name: getattr(args, name) for name in at_least} | {"limit": min(args.limit, default=None)}
    problems += [
        f"--{name} is {value}; expected at least {at_least[name]}"
        for name, value in values.items()
        if value is not None and value < at_least[name]
    ]
    if not args.do_sample and (args.temperature, args.top_p) != (1.0, 1.0):
        problems.append("--temperature and --top_p do nothing without --do_sample; add it or leave them out")
    if args.temperature <= 0 or not 0 < args.top_p <= 1:
        problems.append("expected --temperature above 0 and --top_p above 0 and at most 1")
    if len(args.limit) not in (0, 1, len(args.input_files)):
        problems.append(
            f"--limit takes one number or {len(args.input_files)}, one for each file; found {len(args.limit)}"
        )
    if problems:
        raise UserError("; ".join(problems))


def limit_of_each(args: Args) -> tuple[int | None, ...]:
    limits = args.limit or (None,)
    return limits * len(args.input_files) if len(limits) == 1 else limits


def plan(
    input_file: Path, limit: int | None, args: Args, model_identity: Mapping[str, Any], only_kind: str | None
) -> Job:
    """Raises UserError where the file does not exist, or cannot be asked in this way."""
    evaluation = identify_evaluation(input_file)
    name, kind = evaluation["eval_set"], evaluation["kind"]
    if only_kind not in (None, kind):
        raise UserError(f"{input_file}: {name} is of kind {kind}, expected {only_kind}; use eval/predict.py")
    if kind == "text" and (args.num_shots or args.use_chat_format):
        raise UserError(f"{input_file}: {name} is plain text; it takes no --num_shots and no --use_chat_format")
    inputs = {"model": args.model_name_or_path, "evaluation": input_file}
    if args.tokenizer_name_or_path:
        inputs["tokenizer"] = args.tokenizer_name_or_path
    if args.num_shots:
        inputs["exemplars"] = exemplar_file(input_file)
        if not inputs["exemplars"].is_file():
            raise UserError(f"{inputs['exemplars']}: no such file; --num_shots needs exemplars, and {name} has none")
    output = args.output_file or paths.prediction_file(
        name, evaluation["format"], model_identity["model_id"], args.num_shots
    )
    identity = {**model_identity, **evaluation, "shots": args.num_shots}
    labels = tuple(dict.fromkeys(eval_set_named(name).labels.values())) if kind == "labels" else ()
    protocol = PROTOCOLS[evaluation["protocol"] or "corrected"]
    arguments = deciding_arguments(args, kind) | {"limit": limit}
    if protocol.name != "corrected":
        arguments["protocol"] = protocol.name
    return Job(input_file, kind, labels, limit, protocol, Artifact(output, arguments, inputs, identity))


def identify_evaluation(input_file: Path) -> dict[str, Any]:
    """Evaluation set, format and kind from the sidecar; without one, from the records and the task registry."""
    if not input_file.is_file():
        raise UserError(f"{input_file}: no such file; make it with open_instruct/format_generalization.py")
    if input_file.name.endswith(".exemplars.jsonl"):
        raise UserError(f"{input_file} holds exemplars, which are not evaluated; leave it out of --input_files")
    if sidecar_path(input_file).is_file():
        return read_sidecar(input_file)["identity"]
    names = sorted({str(record["dataset"]) for record in read_jsonl(input_file, required=("dataset",))})
    if len(names) != 1:
        raise UserError(f"{input_file}: expected records of one dataset, found {', '.join(names) or 'no records'}")
    known = eval_set_named(names[0])
    return {"eval_set": known.name, "format": "default", "protocol": None, "kind": known.kind, "role": known.role}


def deciding_arguments(args: Args, kind: str) -> dict[str, Any]:
    """The arguments that decide what is predicted for an evaluation set of this kind."""
    names = ["num_shots", "use_chat_format", "load_in_float16", "truncate_left"]
    if kind == "generation":
        names += ["max_new_tokens", "stop_at_newline", "do_sample"]
        names += ["temperature", "top_p", "seed"] if args.do_sample else []
    return {name: getattr(args, name) for name in names}


def require_different(outputs: Sequence[Path]) -> None:
    repeated = sorted({str(path) for path in outputs if outputs.count(path) > 1})
    if repeated:
        raise UserError(f"two input files have the same output {', '.join(repeated)}; give one of them --output_file")


def is_done(job: Job, *, overwrite: bool) -> bool:
    done = job.artifact.is_done(overwrite=overwrite)
    if done:
        print(f"{job.artifact.path}: done before")
    return done


def sample_items(input_file: Path, limit: int | None) -> list[dict[str, Any]]:
    """The items of an evaluation file, in its order, or `limit` of them: the same ones whoever asks."""
    items = list(read_jsonl(input_file, required=("id", "prompt", "completion")))
    if not items:
        raise UserError(f"{input_file}: no items; make it again with open_instruct/format_generalization.py")
    chosen = random.Random(LIMIT_SEED).sample(range(len(items)), len(items))[:limit]
    return [items[i] for i in sorted(chosen)]


def read_exemplars(job: Job, num_shots: int, items: Iterable[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Raises UserError where there are too few, and where one of them is an item itself."""
    if not num_shots:
        return []
    path = job.artifact.inputs["exemplars"]
    exemplars = list(read_jsonl(path, required=("id", "prompt", "completion")))[:num_shots]
    if len(exemplars) < num_shots:
        raise UserError(f"{path}: {len(exemplars)} exemplars, --num_shots asks for {num_shots}; lower it")
    asked = {(item["prompt"], item["completion"]) for item in items}
    both = [exemplar["id"] for exemplar in exemplars if (exemplar["prompt"], exemplar["completion"]) in asked]
    if both and job.protocol.exemplars != "first_items":
        raise UserError(f"{path}: {', '.join(both)} would be exemplar and item; make the evaluation file again")
    return exemplars


def encode(
    job: Job,
    items: Sequence[Mapping[str, str]],
    exemplars: Sequence[Mapping[str, str]],
    args: Args,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerFast",
) -> tuple[list["Question"], int]:
    """The items as token ids, and how many were cut to what the model takes."""
    from eval import answers

    pairs = answers.texts(items, exemplars, chat=args.use_chat_format)
    if job.protocol.space == "prompt" and job.kind != "text":
        tokens = answers.sub_tokens(tokenizer, job.labels) if job.kind == "labels" else []
        questions = answers.encode_apart(tokenizer, pairs, [[token] for _, token in tokens])
    elif job.kind == "labels":
        questions = answers.encode_choices(tokenizer, pairs, job.labels)
    else:
        questions = answers.encode_golds(tokenizer, pairs)
    return answers.fit(
        questions,
        max_length=model.config.max_position_embeddings,
        max_new_tokens=args.max_new_tokens if job.kind == "generation" else 0,
        cut_left=args.truncate_left,
        name=str(job.input_file),
    )


def predict(
    job: Job,
    items: Sequence[Mapping[str, Any]],
    questions: Sequence["Question"],
    args: Args,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerFast",
) -> dict[str, Any]:
    """Answer chunk by chunk into the partial file, then write the whole.  -> facts for the sidecar."""
    partial = partial_of(job.artifact, args.batch_size or CHUNK_ITEMS)
    if args.overwrite:
        partial.path.unlink(missing_ok=True)
    num_before, started = partial.resume(), time.monotonic()
    for first in range(num_before, len(items), partial.chunk):
        part = slice(first, first + partial.chunk)
        found = answer(job, questions[part], first, args, model, tokenizer)
        partial.append({**item, **fields} for item, fields in zip(items[part], found, strict=True))
        num_done = first + len(found)
        rate = (num_done - num_before) / (time.monotonic() - started)
        print(f"{job.artifact.path.name}: {num_done} of {len(items)} items, {rate:.1f} items/s", flush=True)
    facts = finish(job, partial, num_items=len(items))
    return facts | {"num_resumed": num_before}


def finish(job: Job, partial: Partial, *, num_items: int) -> dict[str, Any]:
    """The whole file from the partial one.  Raises UserError where other hands wrote to it."""
    lines = partial.lines()
    if len(lines) != num_items:
        raise UserError(f"{partial.path}: {len(lines)} lines for {num_items} items; is it being written twice at once?")
    with atomic_write(job.artifact.path) as file:
        file.writelines(lines)
    partial.path.unlink()
    if job.kind != "generation":
        return {}
    return {"num_unfinished": sum(not json.loads(line)["finished"] for line in lines)}


def answer(
    job: Job,
    questions: Sequence["Question"],
    first: int,
    args: Args,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerFast",
) -> list[dict[str, Any]]:
    """What the predictions say of each item; `first` is the position of `questions[0]` among all items."""
    from eval import answers

    if job.kind == "labels" and job.protocol.label_scores == "sub_tokens":
        return answers.choose_by_sub_token(model, questions, answers.sub_tokens(tokenizer, job.labels))
    if job.kind == "labels":
        return answers.choose_labels(model, questions, job.labels)
    golds = answers.score_golds(model, questions)
    if job.kind == "text":
        return golds
    writing = answers.Writing(
        args.max_new_tokens, args.do_sample, args.temperature, args.top_p, args.seed, args.stop_at_newline
    )
    written = answers.write_texts(model, tokenizer, questions, writing, first=first)
    return [text | gold for text, gold in zip(written, golds, strict=True)]


if __name__ == "__main__":
    run(main, Args)
