"""The texts that a formatted record was made of: its prompt and completion without the words of their template."""

from collections.abc import Iterable, Mapping, Sequence
from string import Formatter
from typing import Any

from open_instruct.data.registry import Datasets

SIDES = ("prompt", "completion")
Fields = tuple[Sequence[str], bool]
"""Texts, and whether the words of a template were taken away."""
Literals = Sequence[str]
"""What a template has before, between and after its fields."""


class SourceTexts:
    """Takes records apart by the templates of the declared datasets."""

    def __init__(self, datasets: Datasets) -> None:
        self.datasets = datasets
        self.known: dict[str, dict[str, list[Literals]]] = {}

    def of_record(self, record: Mapping[str, Any]) -> dict[str, list[Fields]]:
        """Side -> its texts. The prompt of a chat is all turns but the assistant's; others are whole."""
        literals = self.literals(str(record.get("dataset")))
        texts: dict[str, list[Fields]] = {side: [] for side in SIDES}
        for side, text in texts_by_side(record):
            texts[side].append(fields_of(text.strip(), literals[side]))
        return texts

    def literals(self, dataset: str) -> dict[str, list[Literals]]:
        if dataset not in self.known:
            declared = (self.datasets.eval_sets.get(dataset), self.datasets.train_sets.get(dataset))
            templates = [task.template for task in declared if task is not None and task.template is not None]
            prompts = [text for one in templates for text in (*one.prompts.values(), *one.paper_prompts.values())]
            self.known[dataset] = {
                "prompt": separating_literals(prompts),
                "completion": separating_literals(one.completion for one in templates),
            }
        return self.known[dataset]


def texts_by_side(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    if "messages" in record:
        return [
            ("completion" if turn["role"] == "assistant" else "prompt", turn["content"]) for turn in record["messages"]
        ]
    return [(side, record[side]) for side in SIDES]


def separating_literals(templates: Iterable[str]) -> list[Literals]:
    """The literals of each template whose fields cannot run into each other: there is more than a space between two."""
    found = [literals_of(template) for template in dict.fromkeys(templates)]
    return [literals for literals in found if len(literals) > 1 and all(map(str.strip, literals[1:-1]))]


def literals_of(template: str) -> Literals:
    literals = [""]
    for literal, field, _, _ in Formatter().parse(template.strip()):
        literals[-1] += literal
        if field is not None:
            literals.append("")
    return literals


def fields_of(text: str, templates: Iterable[Literals]) -> Fields:
    """The texts of the fields by the first template that a text has; the whole text where it has none of them."""
    for literals in templates:
        fields = fields_between(text, literals)
        if fields is not None:
            return fields, True
    return [text], False


def fields_between(text: str, literals: Literals) -> list[str] | None:
    first, *inner, last = literals
    end = len(text) - len(last)
    if not text.startswith(first) or not text.endswith(last):
        return None
    fields, begin = [], len(first)
    for literal in inner:
        found = text.find(literal, begin, end)
        if found < 0:
            return None
        fields.append(text[begin:found])
        begin = found + len(literal)
    return [*fields, text[begin:end]] if begin <= end else None
