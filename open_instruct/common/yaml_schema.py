"""YAML files read into dataclasses, with every mistake named by its line.

The dataclass is the schema: field names are the keys, type hints what may stand there, defaults what may be left out.
"""

import dataclasses
import io
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from open_instruct.common.errors import UserError, nearest


@dataclass(frozen=True)
class Words:
    """In an `Annotated` hint: words of the file that stand for values."""

    values: Mapping[str, Any]


@dataclass
class Reading:
    """What was found out about one file."""

    path: Path
    lines: dict[str, int] = field(default_factory=dict)
    """Line of each key, by its way from the top: `train_sets.xsum.lr`."""
    problems: list[tuple[int, str]] = field(default_factory=list)

    def note(self, where: str, text: str) -> None:
        """Add a problem; its line is that of `where`, or of the nearest key around it."""
        key = where
        while key and key not in self.lines:
            key = key.rpartition(".")[0]
        self.problems.append((self.lines.get(key, 1), f"{where}: {text}" if where else text))

    def refuse(self) -> None:
        """Raises UserError with all problems, a line each, where there are any."""
        if self.problems:
            raise UserError("\n".join(f"{self.path}:{line}: {text}" for line, text in sorted(set(self.problems))))


def read_yaml(path: Path, kind: type) -> tuple[Any, Reading]:
    """The file as a `kind`, None where it has problems.  Raises UserError where it is not YAML at all."""
    reading = Reading(path)
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {error}") from error
    if root is None:
        raise UserError(f"{path}: it is empty")
    return from_node(kind, root, "", reading), reading


def build(kind: type, raw: Any, *, where: str, problems: list[str]) -> Any:
    """A dataclass from plain values that were read elsewhere. What is wrong with them is added to `problems`."""
    reading = Reading(Path())
    value = from_node(kind, yaml.SafeDumper(io.StringIO()).represent_data(raw), where, reading)
    problems += [text for _, text in reading.problems]
    return value


def from_node(kind: type, node: yaml.Node, where: str, reading: Reading) -> Any:
    """A dataclass from a mapping.  -> None where anything is wrong in it"""
    num_problems = len(reading.problems)
    children = {} if is_null(node) and where else mapping(node, where, reading)
    if children is None:
        return None
    fields = {f.name: f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind, include_extras=True)
    for key in children:
        if key not in fields:
            line = reading.lines[join(where, key)]
            reading.problems.append((line, f"unknown key {join(where, key)} ({nearest(key, fields)})"))
    values = {}
    for name, spec in fields.items():
        if name in children:
            values[name] = convert(hints[name], children[name], join(where, name), reading)
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            reading.note(where, f"missing key {name}")
    return kind(**values) if len(reading.problems) == num_problems else None


def convert(hint: Any, node: yaml.Node, where: str, reading: Reading) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        words = args[1].values
        if isinstance(node, yaml.ScalarNode) and node.value in words:
            return words[node.value]
        return convert(args[0], node, where, reading)
    if origin in (types.UnionType, typing.Union):
        inner = next(arg for arg in args if arg is not type(None))
        return None if is_null(node) else convert(inner, node, where, reading)
    if dataclasses.is_dataclass(hint):
        return from_node(typing.cast(type, hint), node, where, reading)
    if origin is tuple:
        items = node.value if isinstance(node, yaml.SequenceNode) else [node]
        return tuple(convert(args[0], item, f"{where}[{i}]", reading) for i, item in enumerate(items))
    if origin is dict:
        children = mapping(node, where, reading) or {}
        return {key: convert(args[1], child, join(where, key), reading) for key, child in children.items()}
    if not isinstance(node, yaml.ScalarNode):
        found = "a mapping" if isinstance(node, yaml.MappingNode) else "a list"
        reading.lines.setdefault(where, line_of(node))
        reading.note(where, f"expected {name_of(hint)}, found {found}")
        return None
    return scalar(hint, node, where, reading)


def scalar(hint: Any, node: yaml.ScalarNode, where: str, reading: Reading) -> Any:
    value = yaml.SafeLoader("").construct_object(node)
    if typing.get_origin(hint) is typing.Literal:
        choices = typing.get_args(hint)
        if value not in choices or isinstance(value, bool):
            note_scalar(node, where, f"one of {', '.join(choices)}", reading)
        return value
    if hint is float and not isinstance(value, bool):
        try:
            # PyYAML reads 1e-3 as a string and 5 as an int; a float key takes both.
            return float(value)
        except (TypeError, ValueError):
            pass
    elif isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    note_scalar(node, where, name_of(hint), reading)
    return None


def note_scalar(node: yaml.ScalarNode, where: str, expected: str, reading: Reading) -> None:
    quoted = node.style in ("'", '"')
    hint = f'; write it in quotes: "{node.value}"' if not quoted and expected in ("str",) and node.value else ""
    if expected.startswith("one of") and not quoted and node.tag.endswith(":bool"):
        hint = f'; YAML reads a bare {node.value} as a truth value, write "{node.value}"'
    reading.lines.setdefault(where, line_of(node))
    reading.note(where, f"expected {expected}, found {node.value!r}{hint}")


def mapping(node: yaml.Node, where: str, reading: Reading) -> dict[str, yaml.Node] | None:
    """The nodes by key; lines are written down on the way."""
    reading.lines.setdefault(where, line_of(node))
    if not isinstance(node, yaml.MappingNode):
        reading.note(where, f"expected a mapping, found {getattr(node, 'value', None)!r}")
        return None
    children: dict[str, yaml.Node] = {}
    for key_node, child in node.value:
        key, line = str(key_node.value), line_of(key_node)
        if not isinstance(key_node, yaml.ScalarNode):
            reading.problems.append((line, f"{where or 'the file'}: expected names as keys"))
            continue
        if key in children:
            reading.problems.append(
                (line, f"{join(where, key)} stands here twice; the first is in line {reading.lines[join(where, key)]}")
            )
        reading.lines.setdefault(join(where, key), line)
        children[key] = child
    return children


def is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def name_of(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint))


def line_of(node: yaml.Node) -> int:
    return node.start_mark.line + 1 if node.start_mark else 0
