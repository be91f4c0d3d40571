"""Where everything lies. The only reader of $base_dir and $data_dir.

base_dir  folder of output/, eval_results/ and results/   (default: the repository)
data_dir  folder of the formatted data                    (default: $base_dir/data)
"""

import os
import re
from functools import cache
from pathlib import Path

from open_instruct.common.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def base_dir() -> Path:
    """Folder of output/, eval_results/ and results/.  Raises UserError where $base_dir is no folder."""
    value = os.environ.get("base_dir") or str(REPOSITORY)
    return checked_base(value, "" if value.startswith("/") else os.getcwd())


@cache
def checked_base(value: str, _working_dir: str) -> Path:
    # A plan asks for hundreds of thousands of paths: the disk is asked once.
    path = Path(value).resolve()
    if not path.is_dir():
        raise UserError(f"base_dir is {path}, which is no folder; make it (`mkdir -p {path}`) or unset base_dir")
    return path


def data_dir() -> Path:
    """Folder of the formatted data; need not exist yet.  Raises UserError where $data_dir is a file."""
    path = Path(os.environ.get("data_dir") or base_dir() / "data").resolve()
    if path.exists() and not path.is_dir():
        raise UserError(f"data_dir is {path}, which is a file; expected a folder: set data_dir to one, or unset it")
    return path


def environment() -> dict[str, str]:
    """The two variables, absolute: for processes that start in another folder."""
    return {"base_dir": str(base_dir()), "data_dir": str(data_dir())}


def safe_name(name: str) -> str:
    """`name` itself, where it can stand in a path and in a shell word.  Raises UserError elsewhere."""
    if not SAFE_NAME.fullmatch(name) or ".." in name:
        raise UserError(f"the name {name!r} would become a file name; expected letters, digits and . _ + - only")
    return name


def relative(path: Path) -> str:
    """`path` seen from base_dir where it lies inside, else as it is: what sidecars write down."""
    path = path.resolve()
    return str(path.relative_to(base_dir())) if path.is_relative_to(base_dir()) else str(path)


def train_file(train_set: str) -> Path:
    return data_dir() / f"{safe_name(train_set)}.jsonl"


def in_format(eval_set: str, task_format: str) -> str:
    """An evaluation set in a format, as files name it; the default one goes without saying."""
    return safe_name(eval_set) + ("" if task_format == "default" else f"_{safe_name(task_format)}")


def evaluation_file(eval_set: str, task_format: str = "default") -> Path:
    return data_dir() / "evaluation" / f"{in_format(eval_set, task_format)}.jsonl"


def exemplar_file(evaluation: Path) -> Path:
    """The few-shot examples of an evaluation file, beside it."""
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
    """A train file as token ids; its sidecar says of which file, by which tokenizer."""
    return base_dir() / "output" / "encoded" / f"{safe_name(key)}.arrow"


def prediction_file(eval_set: str, task_format: str, model_id: str, num_shots: int = 0) -> Path:
    shots = f"_{num_shots}shots" if num_shots else ""
    name = f"{in_format(eval_set, task_format)}_{safe_name(model_id)}{shots}.jsonl"
    return base_dir() / f"output/predictions/{name}"


def metrics_file(prediction: Path) -> Path:
    """The scores of a prediction file, beside it."""
    return prediction.with_name(f"{prediction.name.removesuffix('.jsonl')}.metrics.json")


def perturbation_file(eval_set: str, task_format: str, model_id: str) -> Path:
    """Bits per byte of one model under noise on its weights."""
    return base_dir() / "output" / "perturbations" / f"{in_format(eval_set, task_format)}_{safe_name(model_id)}.json"


def weight_distance_file(model_id: str) -> Path:
    """How far a fine-tuned model's layers are from those of its base."""
    return base_dir() / "output" / "weight_distances" / f"{safe_name(model_id)}.json"


def suite_file(task: str, model_id: str, *, num_shots: int = 0, is_chat: bool = False) -> Path:
    """Metrics file of one ranked-classification task of `run_lm_eval`."""
    shots, chat = f"_{num_shots}shots" if num_shots else "", "_chat" if is_chat else ""
    name = f"{task.replace(':', '_')}_{safe_name(model_id)}{shots}{chat}.json"
    return base_dir() / "eval_results" / "eval_pipeline" / name


def results_dir() -> Path:
    return base_dir() / "results" / "analysis"


def locks_folder() -> Path:
    """Locks of the jobs of all studies, one for each output that is being written."""
    return base_dir() / "output" / "jobs" / "locks"
