"""Fine-tune one checkpoint on one train set: the loss is on completion (or assistant) tokens and EOS only.

Reads   a model (folder in transformers format, or name on the Hub) and a train file (JSON lines with
        prompt/completion or messages).
Writes  output/{model_id}/: weights, tokenizer, README.md, training_log.jsonl, meta.json; and, while it runs,
        output/{model_id}.state/: the state from which a stopped run resumes.

    python open_instruct/finetune.py --model_name_or_path output/tiny_tf_ckpts/checkpoint-600 \\
        --train_file data/socialiqa.jsonl --learning_rate 1e-3 --num_train_epochs 2

Without these two, learning rate and epochs are those registered for the train set: of the paper's, the paper's.
Several processes: `accelerate launch --num_processes 2 open_instruct/finetune.py …`; the result does not depend on the
number of processes (beyond float noise): the loss is averaged over all target tokens of an optimiser step.
"""

import importlib.util
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.hashing import describe_files
from open_instruct.common.json_files import write_json
from open_instruct.common.model_files import require_loadable, require_model, require_tokenizer
from open_instruct.common.model_loading import model_folder, require_no_revision
from open_instruct.common.sidecars import has_sidecar, read_sidecar, sidecar_path
from open_instruct.data.registry import read_datasets
from open_instruct.data.train_records import require_train_file
from open_instruct.study.own_models import base_of, derived_name
from open_instruct.study.variants import Variant
from open_instruct.training.arguments import DEFAULT_EPOCHS, Args, resolve, training_arguments

# torch takes seconds to import: `--help` and user errors do not need it.
TOKENIZER_OPTION = "--tokenizer_name_or_path"


def main(args: Args) -> None:
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    args = resolve(args, num_processes=num_processes)
    require_files(args)
    args = with_registered_recipe(args)
    artifact = artifact_of(args)
    if artifact.is_done(overwrite=args.overwrite):
        print(f"done already: {artifact.path}")
    else:
        model = artifact.inputs["model"]
        require_loadable(model, artifact.inputs.get("tokenizer", model), option=TOKENIZER_OPTION)
        from open_instruct.training.train import train

        train(args, artifact)
    if num_processes == 1 or os.environ["RANK"] == "0":
        run_commands(args, artifact)
        publish_model(args, artifact)


def check_arguments(args: Args) -> None:
    """Raises UserError for options that do not fit together, and for trackers that are not installed."""
    resolve(args, num_processes=1)
    require_trackers(args)


def require_trackers(args: Args) -> None:
    missing = [name for name in args.report_to if args.with_tracking and importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--report_to {' '.join(missing)}: not installed; pip install {' '.join(missing)}")


def artifacts(args: Args) -> list[Artifact]:
    """What this command line writes, for the plan of a study."""
    return [artifact_of(with_registered_recipe(resolve(args, num_processes=1)))]


def with_registered_recipe(args: Args) -> Args:
    """`args` with the train set's learning rate and epochs where none are given.  Raises UserError without a rate."""
    if args.learning_rate is not None and args.num_train_epochs is not None:
        return args
    name, _ = train_set_of(args.train_file)
    registered = read_datasets().train_sets.get(name)
    lr, epochs = (registered.lr, registered.epochs) if registered else (None, None)
    args = replace(
        args,
        learning_rate=lr if args.learning_rate is None else args.learning_rate,
        num_train_epochs=args.num_train_epochs or epochs or DEFAULT_EPOCHS,
    )
    if args.learning_rate is None:
        raise UserError(f"{args.train_file}: train set {name} has no registered recipe; give --learning_rate")
    print(f"{name}: learning rate {args.learning_rate:g}, {args.num_train_epochs} epochs")
    return args


def artifact_of(args: Args) -> Artifact:
    inputs = input_paths(args)
    variant = variant_of(args, inputs["model"])
    return Artifact(args.output_dir or variant.folder, training_arguments(args), inputs, variant.identity())


def require_files(args: Args) -> None:
    """Raises UserError for a missing file, package or login, before anything expensive."""
    require_train_file(args.train_file)
    if args.validation_file and not args.validation_file.is_file():
        raise UserError(f"{args.validation_file}: no such validation file; hold rows back by --num_validation_rows")
    require_trackers(args)
    if args.push_to_hub:
        from open_instruct.training.publishing import require_login

        require_login(args.push_to_hub)


def input_paths(args: Args) -> dict[str, Path]:
    """Everything that is read, by role; models of the Hub are downloaded."""
    require_no_revision(args.model_name_or_path, args.model_revision)
    paths_by_role = {"train_file": args.train_file, "model": model_folder(args.model_name_or_path, args.model_revision)}
    if args.config_name is not None:
        paths_by_role["config"] = model_folder(args.config_name, args.model_revision, files=("*.json",))
    if args.tokenizer_name_or_path is not None or args.tokenizer_revision is not None:
        name, files = args.tokenizer_name_or_path or args.model_name_or_path, ("*.json", "*.txt", "*.model", "*.jinja")
        paths_by_role["tokenizer"] = model_folder(name, args.tokenizer_revision or args.model_revision, files=files)
    require_model(paths_by_role["model"])
    require_model(paths_by_role.get("config", paths_by_role["model"]))
    require_tokenizer(paths_by_role.get("tokenizer", paths_by_role["model"]), option=TOKENIZER_OPTION)
    if args.validation_file is not None:
        paths_by_role["validation_file"] = args.validation_file
    return paths_by_role


def variant_of(args: Args, base: Path) -> Variant:
    """Identity of the output, from the base model, the train file and the recipe."""
    model = base_of(base, name=args.model_name_or_path, revision=args.model_revision, model_id=args.model_name)
    name, data_settings = train_set_of(args.train_file)
    return Variant(model, name, args.num_train_epochs, args.learning_rate, args.recipe(data_settings))


def train_set_of(train_file: Path) -> tuple[str, str]:
    """Name of the train set and of its settings: as recorded, or of a file of one's own a name that no other has."""
    if not has_sidecar(train_file):
        return derived_name(train_file.with_suffix("")), ""
    identity = read_sidecar(train_file)["identity"]
    if "train_set" not in identity:
        kind = identity.get("kind", "another")
        raise UserError(f"{train_file} is a file of kind {kind}, no train file; see $data_dir for train files")
    return identity["train_set"], identity.get("data_settings", "")


def run_commands(args: Args, artifact: Artifact) -> None:
    """Run the `then` commands on the finished model, then remove its weights unless they are to be kept.

    If a command fails, exits with its exit code and keeps the weights; the next start continues here.
    """
    if read_sidecar(artifact.path).get("weights_removed"):
        return
    for command in args.then:
        print(f"then: python {command}", flush=True)
        # Without the launcher's variables: the command does not belong to its group of processes.
        environment = {k: v for k, v in os.environ.items() if k not in ("WORLD_SIZE", "RANK", "LOCAL_RANK")}
        done = subprocess.run([sys.executable, *shlex.split(command)], cwd=paths.REPOSITORY, env=environment)
        if done.returncode != 0:
            print(f"error: exit code {done.returncode} of: python {command}", file=sys.stderr)
            sys.exit(done.returncode)
    if args.keep_weights == "none":
        for path in artifact.path.glob("*.safetensors*"):
            path.unlink()
        changes = {"files": describe_files(artifact.path), "weights_removed": True}
        write_json(sidecar_path(artifact.path), read_sidecar(artifact.path) | changes)
        print(f"removed the weights of {artifact.path}")


def publish_model(args: Args, artifact: Artifact) -> None:
    if args.push_to_hub:
        from open_instruct.training.publishing import publish

        print(f"published {publish(artifact.path, args.push_to_hub)}")


if __name__ == "__main__":
    run(main, Args)
