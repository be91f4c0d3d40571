"""A user's own datasets, declared in YAML: `datasets.yaml` in base_dir, or the section `datasets:` of a study file.

    support_tickets:
      train: tickets/train*.jsonl        # JSON lines, .gz or not, or Parquet; relative to this file
      test: tickets/test.jsonl
      labels: {0: billing, 1: delivery}
      prompt: "Ticket: {text}\\nTopic:"
      fields: {text: body, label: topic}

docs/data.md explains every key.
"""

import glob
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Literal

from open_instruct.common import ranges
from open_instruct.common.errors import nearest
from open_instruct.common.yaml_schema import Validator, join
from open_instruct.data.sources import JSON_LINES
from open_instruct.tasks.declarations import ITEM_METRICS, EvalSet, Split, Template, TrainSet

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
ROLE = re.compile(r"(?:in-domain|out-of-domain) of (\S+)|other")


@dataclass(frozen=True)
class DatasetEntry:
    """One entry. It declares a train set where it has a train part, and an evaluation set where it has a test part."""

    train: tuple[str, ...] = ()
    """Files of the train part: paths or glob patterns, relative to the YAML file."""
    test: tuple[str, ...] = ()
    """Files of the evaluated part."""
    hub: str | None = None
    """Dataset on the Hub, `owner/name`; then train and test are each one glob pattern of its files."""
    revision: str | None = None
    """Commit, tag or branch on the Hub (None: main)."""
    kind: Literal["generation", "labels", "text"] | None = None
    """How it is evaluated (None: `labels` where there are labels, else `generation`)."""
    prompt: str | None = None
    """The prompt in the default format; `{}` are template fields."""
    prompts: dict[str, str] = field(default_factory=dict)
    """Format -> prompt, where there are several. Without any, the column `prompt` is the prompt."""
    completion: str | None = None
    """The gold completion (None: `{label}` for kind labels, `{text}` for kind text, else `{completion}`)."""
    messages: str | None = None
    """Column of chats, a list of {"role", "content"}; for training only."""
    fields: dict[str, str] = field(default_factory=dict)
    """Template field -> column (empty: the same names)."""
    labels: dict[str, str] | tuple[str, ...] = ()
    """Raw label -> label text, or a list of the label texts that the rows have."""
    exemplars: Literal["train", "held_back", "none"] | None = None
    """Few-shot exemplars: rows of the train part that are not trained on, or rows of the test part, which are then not
    evaluated (None: train, where there are both parts)."""
    role: str | None = None
    """Of the evaluation set (None: in-domain of its own train part, or other)."""
    metric: str | None = None
    """Primary metric (None: that of the kind)."""
    cluster: str | None = None
    """Column that says which items belong together."""
    sample: int = TrainSet.sample
    """Rows of the seeded train sample."""
    lr: float | None = None
    """Peak learning rate of its registered recipe."""
    epochs: int | None = None
    """Epochs of its registered recipe."""


def declare(
    entries: Mapping[str, DatasetEntry], folder: Path, key: str, validator: Validator
) -> tuple[dict[str, TrainSet], dict[str, EvalSet]]:
    """The train and evaluation sets of a file in `folder`, by name; problems are added to `validator`."""
    sets = [
        one
        for name, entry in entries.items()
        for one in Declaration(name, entry, folder, join(key, name), validator).sets()
    ]
    train_sets = {one.name: one for one in sets if isinstance(one, TrainSet)}
    return train_sets, {one.name: one for one in sets if isinstance(one, EvalSet)}


@dataclass(frozen=True)
class Declaration:
    """One entry and where it is."""

    name: str
    entry: DatasetEntry
    folder: Path
    """Paths are relative to it."""
    key: str
    validator: Validator

    @property
    def kind(self) -> str:
        return self.entry.kind or ("labels" if self.entry.labels else "generation")

    @property
    def labels(self) -> dict[str, str]:
        labels = self.entry.labels
        return dict(labels) if isinstance(labels, dict) else {label: label for label in labels}

    def error(self, name: str, message: str) -> None:
        self.validator.error(join(self.key, name) if name else self.key, message)

    def sets(self) -> list[TrainSet | EvalSet]:
        """The declared sets; empty where the entry has a problem."""
        entry, num_errors = self.entry, len(self.validator.errors)
        self.check_values()
        self.check_labels()
        template, fields = self.messages() if entry.messages is not None else self.template()
        train, test = self.split("train", entry.train), self.split("test", entry.test)
        exemplars = self.exemplars(train, test)
        role = entry.role or (f"in-domain of {self.name}" if train else "other")
        if len(self.validator.errors) > num_errors:
            return []
        found: list[TrainSet | EvalSet] = []
        if train:
            found.append(
                TrainSet(
                    self.name,
                    template,
                    fields,
                    splits=(train,),
                    labels=self.labels,
                    sample=entry.sample,
                    chat=template is None,
                    lr=entry.lr,
                    epochs=entry.epochs,
                    leaves_exemplars=exemplars == train,
                )
            )
        if test and template:
            # A label that contains another one comes before it.
            parse_order = tuple(sorted(dict.fromkeys(self.labels.values()), key=len, reverse=True))
            found.append(
                EvalSet(
                    self.name,
                    self.kind,
                    template,
                    fields,
                    split=test,
                    labels=self.labels,
                    parse_order=parse_order,
                    exemplars=exemplars,
                    role=role,
                    primary_metric=entry.metric,
                    cluster=entry.cluster,
                )
            )
        return found

    def check_values(self) -> None:
        entry = self.entry
        if not NAME.fullmatch(self.name):
            self.error("", "expected letters, digits, _ and - only, for the name becomes a file name")
        if not entry.train and not entry.test:
            self.error("", "expected train or test, the files of its rows")
        if entry.role is not None and not ROLE.fullmatch(entry.role):
            self.error("role", f"expected `in-domain of X`, `out-of-domain of X` or `other`, found {entry.role!r}")
        if entry.metric is not None and entry.metric not in ITEM_METRICS[self.kind]:
            known = ", ".join(ITEM_METRICS[self.kind])
            self.error("metric", f"expected one of {known} for kind {self.kind}, found {entry.metric!r}")
        for name in ("sample", "lr", "epochs"):
            if found := ranges.problem(name, getattr(entry, name)):
                self.error(name, found)

    def check_labels(self) -> None:
        texts = list(self.labels.values())
        if self.kind != "labels" and texts:
            self.error("labels", f"are for kind labels, not for {self.kind}")
        if self.kind == "labels" and len(set(texts)) < 2:
            self.error("labels", f"expected at least two label texts to choose from, found {texts}")
        if any(text != text.strip() or not text for text in texts):
            self.error("labels", f"expected texts without white space at their ends, found {texts}")

    def split(self, part: str, files: tuple[str, ...]) -> Split | None:
        """The split of one part, or None where there is none."""
        entry = self.entry
        if entry.hub is None:
            if entry.revision is not None:
                self.error("revision", "is that of a dataset on the Hub; expected hub: owner/name beside it")
            return Split(None, own_files=tuple(map(self.pattern, files))) if files else None
        if not HUB_NAME.fullmatch(entry.hub) or ".." in entry.hub:
            self.error("hub", f"expected owner/name, found {entry.hub!r}")
        for pattern in files:
            if not pattern.endswith((*JSON_LINES, ".parquet")):
                self.error(
                    part, f"expected a pattern that ends in .parquet or {', '.join(JSON_LINES)}, found {pattern!r}"
                )
        if len(files) > 1:
            self.error(part, f"expected one pattern of the files on the Hub, found {len(files)}")
        return Split(None, entry.hub, files[0], entry.revision or "main") if files else None

    def pattern(self, written: str) -> str:
        """The absolute glob pattern of a path or pattern. Brackets in names of folders and files are no pattern."""
        written = os.path.expanduser(written)
        path = self.folder / written
        return glob.escape(str(path)) if path.is_file() else os.path.join(glob.escape(str(self.folder)), written)

    def exemplars(self, train: Split | None, test: Split | None) -> Split | None:
        chosen = self.entry.exemplars
        if chosen is None and self.kind != "text" and train and test:
            chosen = "train"
        if chosen in (None, "none"):
            return None
        found = train if chosen == "train" else test
        if found is None or test is None:
            self.error("exemplars", f"{chosen}: expected {'train and test' if chosen == 'train' else 'test'}")
        if self.kind == "text":
            self.error("exemplars", "kind text has no prompt before which exemplars could stand; expected none")
        return found

    def messages(self) -> tuple[None, dict[str, str]]:
        """Chats have no template."""
        for name in ("prompt", "prompts", "completion", "fields", "labels", "kind", "test"):
            if getattr(self.entry, name):
                self.error(name, "has no effect on messages, which are for training; leave it out")
        return None, {"messages": str(self.entry.messages)}

    def template(self) -> tuple[Template, dict[str, str]]:
        """Prompts and completion, and template field -> column."""
        entry = self.entry
        if entry.prompt is not None and entry.prompts:
            self.error("prompt", "expected either prompt or prompts")
        prompts = {"default": entry.prompt} if entry.prompt is not None else dict(entry.prompts)
        if self.kind == "text":
            if prompts:
                self.error("prompts" if entry.prompts else "prompt", "kind text has no prompt; leave it out")
            template = Template({"default": ""}, entry.completion or "{text}")
        elif prompts:
            completion = "{label}" if self.kind == "labels" else "{completion}"
            template = Template(prompts, entry.completion or completion)
        elif self.kind == "labels":
            template = Template({"default": "{prompt}"}, entry.completion or "{label}")
        else:
            template = Template({"default": "{prompt}"}, entry.completion or "{completion}")
        self.check_template(template)
        columns = dict(entry.fields)
        is_ready = not prompts and entry.completion is None and self.kind == "labels"
        if is_ready and "label" not in columns:
            columns["label"] = columns.pop("completion", "completion")
        return template, self.fields(template, columns)

    def check_template(self, template: Template) -> None:
        if "default" not in template.prompts:
            self.error("prompts", f"expected one for the format default, found {', '.join(template.prompts)}")
        for task_format in template.prompts:
            if not NAME.fullmatch(task_format):
                self.error("prompts", f"{task_format!r}: expected letters, digits, _ and -, for it becomes a file name")
        if self.kind == "labels" and template.completion.strip() != "{label}":
            self.error("completion", f"expected {{label}} alone, for kind labels; found {template.completion!r}")

    def fields(self, template: Template, columns: Mapping[str, str]) -> dict[str, str]:
        """Template field -> column.  Unknown and unused fields are errors."""
        used: dict[str, str] = {}
        for task_format, text in (*template.prompts.items(), ("completion", template.completion)):
            of_prompt = "prompts" if self.entry.prompts else "prompt"
            place = "completion" if task_format == "completion" else of_prompt
            for name in self.placeholders(place, text):
                if self.entry.fields and name not in columns and place in self.given:
                    self.error(place, f"{{{name}}} is not among the fields ({nearest(name, columns)})")
                used[name] = columns.get(name, name)
        for name in columns:
            if name not in used:
                self.error("fields", f"{name} is in no prompt and no completion ({nearest(name, used)})")
        return used

    @property
    def given(self) -> list[str]:
        """The keys that the user wrote, of the templates."""
        return [name for name in ("prompt", "prompts", "completion") if getattr(self.entry, name)]

    def placeholders(self, place: str, text: str) -> list[str]:
        try:
            parts = [part for part in Formatter().parse(text) if part[1] is not None]
        except ValueError as error:
            self.error(place, f"{text!r}: {error}; a brace that is text is written twice: {{{{ }}}}")
            return []
        plain = [name for _, name, *rest in parts if name and name.isidentifier() and not any(rest)]
        if len(plain) < len(parts):
            self.error(place, f"{text!r}: expected names of fields in braces, like {{text}}; other braces are doubled")
        return plain
