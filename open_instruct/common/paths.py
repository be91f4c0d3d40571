"""File locations. The only reader of $base_dir and $data_dir.

base_dir  folder of output/, eval_results/ and results/   (default: the repository; of an installed wheel, the folder
          where the program was started: amuro/__init__.py)
data_dir  folder of the formatted data                    (default: $base_dir/data)
"""

import os
import re
import shlex
from functools import cache
from pathlib import Path

from open_instruct.common.errors import UserError
from open_instruct.common.naming import shortened

REPOSITORY = Path(__file__).resolve().parents[2]
RELEASED_RESULTS = REPOSITORY / "results" / "analysis"
"""The tables and figures that this repository releases. Only scripts/release_results.sh writes there."""
NOT_STUDIES = ("all", "released", RELEASED_RESULTS.name, "locks")
"""Folders that belong to no study: of all measurements, of the authors' tables, of what is released here, and of the
locks in output/jobs/."""
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def base_dir() -> Path:
    """Folder of output/, eval_results/ and results/.  Raises UserError where $base_dir is no folder."""
    value = os.environ.get("base_dir") or str(REPOSITORY)
    return existing_base_dir(value if os.path.isabs(value) else os.path.join(os.getcwd(), value))


@cache
def existing_base_dir(value: str) -> Path:
    # Cached because a plan needs hundreds of thousands of paths.
    path = Path(value).resolve()
    if not path.is_dir():
        command = shlex.join(["mkdir", "-p", str(path)])
        raise UserError(f"base_dir is {path}, which is no folder; make it (`{command}`) or unset base_dir")
    return path


def data_dir() -> Path:
    """Folder of the formatted data, which need not exist.  Raises UserError where $data_dir is a file."""
    path = Path(os.environ.get("data_dir") or base_dir() / "data").resolve()
    if path.exists() and not path.is_dir():
        raise UserError(f"data_dir is {path}, which is a file; expected a folder: set data_dir to one, or unset it")
    return path


def environment() -> dict[str, str]:
    """Both variables as absolute paths, for processes that start in another folder."""
    return {"base_dir": str(base_dir()), "data_dir": str(data_dir())}


def is_safe(name: str) -> bool:
    """Whether a name is safe in a path and as a shell argument."""
    return SAFE_NAME.fullmatch(name) is not None and ".." not in name


def safe_name(name: str) -> str:
    """`name`, if it is safe in a path and as a shell argument.  Raises UserError where it is not."""
    if not is_safe(name):
        raise UserError(f"the name {name!r} would become a file name; expected letters, digits and . _ + - only")
    return name


def relative(path: Path) -> str:
    """`path` relative to base_dir if it is inside, else absolute: the form that sidecars record."""
    path = path.resolve()
    return str(path.relative_to(base_dir())) if path.is_relative_to(base_dir()) else str(path)


def absolute(name: str) -> Path:
    """The path that `relative` gave as `name`."""
    return (base_dir() / name).resolve()


def train_file(train_set: str, suffix: str = "") -> Path:
    """`suffix` names the data settings that are not at their default (`DataSettings.suffix`)."""
    return data_dir() / f"{safe_name(train_set + suffix)}.jsonl"


def formatted_name(eval_set: str, task_format: str) -> str:
    """Name of an evaluation set in a format; the default format has no suffix."""
    return safe_name(eval_set) + ("" if task_format == "default" else f"_{safe_name(task_format)}")


def evaluation_file(eval_set: str, task_format: str = "default", suffix: str = "") -> Path:
    """`suffix` names the data settings that are not at their default (`DataSettings.suffix`)."""
    return data_dir() / "evaluation" / f"{safe_name(formatted_name(eval_set, task_format) + suffix)}.jsonl"


def exemplar_file(evaluation: Path) -> Path:
    """Few-shot exemplars of an evaluation file, in the same folder."""
    return evaluation.with_name(f"{evaluation.name.removesuffix('.jsonl')}.exemplars.jsonl")


def native_checkpoint(family: str, checkpoint: str) -> Path:
    """Folder of a checkpoint in OLMo's own format; `checkpoint` is `checkpoint-{step}` or `main`."""
    return base_dir() / "output" / f"{safe_name(family)}_ckpts" / safe_name(checkpoint)


def converted_checkpoint(family: str, checkpoint: str) -> Path:
    """Folder of a checkpoint in transformers format."""
    return base_dir() / "output" / f"{safe_name(family)}_tf_ckpts" / safe_name(checkpoint)


def tokenizer_dir(family: str) -> Path:
    return base_dir() / "output" / f"{safe_name(family)}_tokenizer"


def fine_tuned_model(model_id: str) -> Path:
    return base_dir() / "output" / safe_name(model_id)


def encoded_file(key: str) -> Path:
    """Token ids of a train file; the sidecar names the file and the tokenizer."""
    return base_dir() / "output" / "encoded" / f"{safe_name(key)}.arrow"


def prediction_file(eval_set: str, task_format: str, model_id: str, suffix: str = "") -> Path:
    """`suffix`: how the model is evaluated, where it is not by default: `_4shots_limit100`."""
    name = shortened(f"{formatted_name(eval_set, task_format)}_{safe_name(model_id)}{suffix}")
    return base_dir() / f"output/predictions/{safe_name(name)}.jsonl"


def metrics_file(prediction: Path, suffix: str = "") -> Path:
    """Scores of a prediction file, in the same folder."""
    return prediction.with_name(f"{prediction.name.removesuffix('.jsonl')}{suffix}.metrics.json")


def perturbation_file(eval_set: str, task_format: str, model_id: str) -> Path:
    """Bits per byte of one model with noise added to its weights."""
    return base_dir() / "output" / "perturbations" / record_name(eval_set, task_format, model_id)


def interpolation_file(eval_set: str, task_format: str, model_id: str) -> Path:
    """Bits per byte along the line from a base model to one fine-tuned from it."""
    return base_dir() / "output" / "interpolations" / record_name(eval_set, task_format, model_id)


def record_name(eval_set: str, task_format: str, model_id: str) -> str:
    return f"{formatted_name(eval_set, task_format)}_{safe_name(model_id)}.json"


def weight_distance_file(model_id: str) -> Path:
    """Distances of a fine-tuned model's layers from those of its base model."""
    return base_dir() / "output" / "weight_distances" / f"{safe_name(model_id)}.json"


def suite_file(task: str, model_id: str, suffix: str = "") -> Path:
    """Metrics file of one ranked-classification task (`run_lm_eval`)."""
    name = shortened(f"{task.replace(':', '_')}_{safe_name(model_id)}{suffix}")
    return base_dir() / "eval_results" / "eval_pipeline" / f"{safe_name(name)}.json"


def results_dir(name: str) -> Path:
    """Folder of the tables, figures and page of a study.  Raises UserError for the name of the released ones."""
    if name == RELEASED_RESULTS.name:
        raise UserError(f"results/{name} has the released tables; only scripts/release_results.sh writes there")
    return base_dir() / "results" / safe_name(name)


def locks_folder() -> Path:
    """Lock files of the jobs of all studies, one per output that is being written."""
    return base_dir() / "output" / "jobs" / "locks"
