"""Read YAML files: errors name the file and line."""

from pathlib import Path
from typing import Any

import yaml

from open_instruct.common.errors import UserError
from open_instruct.common.json_files import decode

MERGES = ("tag:yaml.org,2002:merge", "tag:yaml.org,2002:value")
"""Tags of the keys << and =, which have no values of their own."""


def compose(path: Path) -> yaml.Node:
    """The root node of a file.  Raises UserError where there is no such file, and where it is empty or not YAML."""
    root = compose_text(read_text(path), place=str(path))
    if root is None:
        raise UserError(f"{path}: it is empty")
    return root


def load_yaml(path: Path) -> Any:
    """The value of a file, None where it is empty.  Raises UserError as `compose`, and for a repeated key."""
    return load_text(read_text(path), place=str(path))


def load_text(text: str, *, place: str) -> Any:
    """The value of YAML text.  Raises UserError, beginning with `place`, where it is none, and for a repeated key."""
    root = compose_text(text, place=place)
    try:
        return None if root is None else construct(root)
    except yaml.YAMLError as error:
        raise UserError(f"{place}{yaml_problem(error)}") from error


def read_text(path: Path) -> str:
    try:
        return decode(path.read_bytes(), place=str(path))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: a folder; expected a YAML file") from error


def compose_text(text: str, *, place: str) -> yaml.Node | None:
    try:
        root = yaml.compose(text, Loader=Loader)
        require_plain(root)
        return root
    except yaml.YAMLError as error:
        raise UserError(f"{place}{yaml_problem(error)}") from error
    except RecursionError as error:
        raise UserError(f"{place}: not YAML (nested too deeply, or an alias inside of what it stands for)") from error


def require_plain(node: Any) -> None:
    """Raises YAMLError for a tag that is not of YAML itself, such as that of a Python object; RecursionError where an
    alias stands inside of what it stands for, which then has no end."""
    if node is not None and node.tag not in (*yaml.SafeLoader.yaml_constructors, *MERGES):
        raise yaml.MarkedYAMLError(problem=f"unknown tag {node.tag}", problem_mark=node.start_mark)
    if isinstance(node, yaml.CollectionNode):
        for child in node.value:
            for part in child if isinstance(child, tuple) else (child,):
                require_plain(part)


class Loader(yaml.SafeLoader):
    """Refuses a key for the second time, of which all but one value would be lost; every error is a YAMLError."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and lines.setdefault(key.value, key) is not key:
                first = line_of(lines[key.value])
                problem = f"{key.value} is repeated; the first is in line {first}"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, AttributeError, LookupError) as error:  # whatever PyYAML's conversions raise
            found = f"{node.value[:40]!r}" if isinstance(node, yaml.ScalarNode) else "a value"
            raise yaml.MarkedYAMLError(problem=f"{found}: {error}", problem_mark=node.start_mark) from error


def construct(node: yaml.Node) -> Any:
    """The value of a node.  Raises YAMLError where it has none."""
    return Loader("").construct_document(node)


def yaml_problem(error: yaml.YAMLError) -> str:
    """Where a file is not YAML, and why, in one line."""
    mark = getattr(error, "problem_mark", None)
    return f"{f':{mark.line + 1}' if mark else ''}: not YAML ({reason(error)})"


def reason(error: yaml.YAMLError) -> str:
    return getattr(error, "problem", None) or str(error).splitlines()[0]


def line_of(node: yaml.Node) -> int:
    """Counted from 1; 0 for what is not of the file, but of the command line."""
    return node.start_mark.line + 1 if node.start_mark else 0
