"""Parse YAML files into dataclasses, and report every error with its line.

The dataclass is the schema: field names are the keys, type hints the types, and keys with a default are optional.
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
from open_instruct.common.yaml_files import construct, line_of, reason

NO_KEY = {"is_key": False}
"""Metadata of a dataclass field that is no key of the file."""
MOST_LISTED = 8
"""Choices that a message lists, whatever was found."""


@dataclass(frozen=True, eq=False)  # hashable, as parts of a union must be
class Aliases:
    """Metadata of an `Annotated` hint: strings that stand for other values, as `main` does for None."""

    values: Mapping[str, Any]


def parse_values(schema: type, values: Mapping[str, Any], *, key: str, errors: list[str]) -> Any:
    """A dataclass from plain values, None where they are invalid; error messages are appended to `errors`."""
    validator = Validator(Path())
    parsed = validator.parse_dataclass(
        schema, yaml.SafeDumper(io.StringIO(), sort_keys=False).represent_data(values), key
    )
    errors += [message for _, message in validator.errors]
    return parsed


@dataclass
class Validator:
    """Parse the nodes of one file; collect its errors. `key` is a path from the top: `train_sets.xsum.lr`."""

    path: Path
    lines: dict[str, int] = field(default_factory=dict)
    """Line of each key."""
    errors: list[tuple[int, str]] = field(default_factory=list)
    """(line, message)"""

    def error(self, key: str, message: str) -> None:
        """Add an error at the line of `key`, or of the nearest key around it."""
        known = key
        while known and known not in self.lines:
            known = known.rpartition(".")[0]
        self.errors.append((self.lines.get(known, 1), f"{key}: {message}" if key else message))

    def raise_errors(self) -> None:
        """Raises UserError with all errors, a line each, where there are any."""
        if self.errors:
            places = [(f"{self.path}:{line}" if line else "--set", text) for line, text in sorted(set(self.errors))]
            raise UserError("\n".join(f"{place}: {text}" for place, text in places))

    def parse_dataclass(self, schema: type, node: yaml.Node, key: str) -> Any:
        """A `schema` from a mapping; None where anything in it is invalid."""
        num_errors = len(self.errors)
        children = {} if is_null(node) and key else self.parse_mapping(node, key)
        if children is None:
            return None
        fields = {f.name: f for f in dataclasses.fields(schema) if f.metadata.get("is_key", True)}
        hints = typing.get_type_hints(schema, include_extras=True)
        for name, spec in fields.items():
            for alias in spec.metadata.get("aliases", ()):
                if alias in children:
                    self.lines.setdefault(join(key, name), self.lines[join(key, alias)])
                    if name in children:
                        self.error(join(key, alias), f"is {name}, which is given, too; keep one")
                    children[name] = children.pop(alias)
        for child, name in ((join(key, name), name) for name in children if name not in fields):
            self.errors.append((self.lines[child], f"unknown key {child} ({nearest(name, fields)})"))
        values = {}
        for name, spec in fields.items():
            if name in children:
                values[name] = self.parse(hints[name], children[name], join(key, name))
            elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
                self.error(key, f"missing key {name}")
        return schema(**values) if len(self.errors) == num_errors else None

    def parse(self, hint: Any, node: yaml.Node, key: str) -> Any:
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if origin is typing.Annotated:
            aliases = args[1].values
            if isinstance(node, yaml.ScalarNode) and node.value in aliases:
                return aliases[node.value]
            return self.parse(args[0], node, key)
        if origin in (types.UnionType, typing.Union):
            if is_null(node) and type(None) in args:
                return None
            inner = [arg for arg in args if arg is not type(None)]
            return self.parse(next((arg for arg in inner if takes(arg, node)), inner[0]), node, key)
        if dataclasses.is_dataclass(hint):
            return self.parse_dataclass(typing.cast(type, hint), node, key)
        if origin is tuple:
            items = node.value if isinstance(node, yaml.SequenceNode) else [node]
            return tuple(self.parse(args[0], item, f"{key}[{i}]") for i, item in enumerate(items))
        if origin is dict:
            children = self.parse_mapping(node, key) or {}
            return {name: self.parse(args[1], child, join(key, name)) for name, child in children.items()}
        self.lines.setdefault(key, line_of(node))
        if isinstance(node, yaml.ScalarNode):
            return self.parse_scalar(hint, node, key)
        self.error(key, f"expected {name_of(hint)}, found {found_in(node)}")
        return None

    def parse_scalar(self, hint: Any, node: yaml.ScalarNode, key: str) -> Any:
        try:
            value = construct(node)
        except yaml.YAMLError as error:
            self.error(key, f"expected {name_of(hint)}, found {node.value[:40]!r} ({reason(error)})")
            return None
        is_quoted, is_bool, cure = node.style in ("'", '"'), isinstance(value, bool), ""
        if typing.get_origin(hint) is typing.Literal:
            choices = typing.get_args(hint)
            if value in choices and not is_bool:
                return value
            if is_bool and str(value).lower() in choices:  # of --add_bos_token true
                return str(value).lower()
            if is_bool and not is_quoted:
                cure = f'; YAML reads a bare {node.value} as a truth value, write "{node.value}"'
            if len(choices) <= MOST_LISTED:
                self.error(key, f"expected one of {', '.join(choices)}, found {node.value!r}{cure}")
            else:
                self.error(key, f"found {node.value!r}; {nearest(str(node.value), choices)}{cure}")
            return None
        if hint is float and not is_bool:
            try:
                # PyYAML reads 1e-3 as a string and 5 as an int; a float key takes both.
                return float(value)
            except (TypeError, ValueError):
                pass
        elif isinstance(value, hint) and is_bool == (hint is bool):
            return value
        if hint is str and node.value and not is_quoted:
            cure = f'; write it in quotes: "{node.value}"'
        self.error(key, f"expected {name_of(hint)}, found {node.value!r}{cure}")
        return None

    def parse_mapping(self, node: yaml.Node, key: str) -> dict[str, yaml.Node] | None:
        """The nodes by name; their lines are recorded."""
        self.lines.setdefault(key, line_of(node))
        if not isinstance(node, yaml.MappingNode):
            self.error(key, f"expected a mapping, found {found_in(node)}")
            return None
        children: dict[str, yaml.Node] = {}
        for name_node, node_of_name in node.value:
            name, line = str(name_node.value), line_of(name_node)
            child = join(key, name)
            if not isinstance(name_node, yaml.ScalarNode):
                self.errors.append((line, f"{key or 'the file'}: expected names as keys"))
                continue
            if name in children:
                self.errors.append((line, f"{child} is repeated; the first is in line {self.lines[child]}"))
            self.lines.setdefault(child, line)
            children[name] = node_of_name
        return children


def takes(hint: Any, node: yaml.Node) -> bool:
    """Whether `hint`, one of several, is for nodes of this shape: a mapping, a list or a scalar."""
    origin = typing.get_origin(hint)
    if isinstance(node, yaml.MappingNode):
        return origin is dict or dataclasses.is_dataclass(hint)
    return (origin is tuple) == isinstance(node, yaml.SequenceNode)


def found_in(node: yaml.Node) -> str:
    """What stands there, for messages."""
    if isinstance(node, yaml.ScalarNode):
        return repr(node.value) if node.value else "nothing"
    return "a mapping" if isinstance(node, yaml.MappingNode) else "a list"


def is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def name_of(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint))
