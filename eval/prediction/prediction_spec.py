"""What is to be predicted: each evaluation file, what decides its predictions, and where these go. Without torch, which
takes seconds to import: where every file is done, it is not needed.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.prediction.arguments import Args, Constraint
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact, read_sidecar, sidecar_path
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_jsonl
from open_instruct.common.paths import exemplar_file
from open_instruct.tasks import PROTOCOLS, eval_set_named
from open_instruct.tasks.declarations import Protocol

LIMIT_SEED = 42
"""Of the shuffle before --limit; fixed, so that every model is asked the same items."""
OF_PROTOCOL: dict[str, Constraint] = {"whole_label": "label", "sub_tokens": "next_word"}


@dataclass(frozen=True)
class Job:
    """One evaluation file, and where its predictions go."""

    input_file: Path
    kind: str
    labels: tuple[str, ...]
    """Words to choose from, for kind `labels`."""
    parse_order: tuple[str, ...]
    """Words that are sought in a text that was written instead, in this order."""
    constraint: Constraint
    """How a label is chosen, for kind `labels`."""
    limit: int | None
    """Items to ask; None: all."""
    protocol: Protocol
    """Under which the evaluation file was made: it says how its items are tokenised."""
    artifact: Artifact

    @property
    def writes(self) -> bool:
        """Whether the model writes text, rather than being asked for likelihoods only."""
        return writes(self.kind, self.constraint)


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
    protocol = PROTOCOLS[evaluation["protocol"] or "corrected"]
    constraint = args.constraint_type or OF_PROTOCOL[protocol.label_scores]
    arguments = deciding_arguments(args, kind, constraint) | {"limit": limit}
    if protocol.name != "corrected":
        arguments["protocol"] = protocol.name
    if kind == "labels" and constraint != OF_PROTOCOL[protocol.label_scores]:
        arguments["constraint_type"] = constraint
    eval_set = eval_set_named(name)
    labels = tuple(dict.fromkeys(eval_set.labels.values())) if kind == "labels" else ()
    artifact = Artifact(output, arguments, inputs, identity)
    return Job(input_file, kind, labels, eval_set.parse_order, constraint, limit, protocol, artifact)


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


def writes(kind: str, constraint: Constraint) -> bool:
    return kind == "generation" or (kind == "labels" and constraint == "none")


def deciding_arguments(args: Args, kind: str, constraint: Constraint) -> dict[str, Any]:
    """The arguments that decide what is predicted for an evaluation set of this kind."""
    names = ["num_shots", "use_chat_format", "load_in_float16", "truncate_left"]
    if writes(kind, constraint):
        names += ["max_new_tokens", "stop_at_newline", "do_sample"]
        names += ["temperature", "top_p", "seed"] if args.do_sample else []
        names += ["use_vllm"] if args.use_vllm else []
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
