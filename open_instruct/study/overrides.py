"""Changes of a study file's nodes before they are parsed: `--set key=value`, and options shared by all recipes."""

from collections.abc import Sequence

import yaml

from open_instruct.common.errors import UserError
from open_instruct.common.yaml_files import line_of
from open_instruct.common.yaml_schema import found_in, is_null

SHARED, RECIPES = "finetune", "train_sets"
MAP, TEXT = "tag:yaml.org,2002:map", "tag:yaml.org,2002:str"


def override(root: yaml.Node, assignments: Sequence[str]) -> None:
    """Replace values: `train_sets.xsum.rows=[600, 6000]`.  Raises UserError for what is not key=value."""
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise UserError(f"--set {assignment}: expected key=value, e.g. --set train_sets.xsum.rows=600")
        try:
            value = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            raise UserError(f"--set {assignment}: {text} is not YAML") from error
        assign(root, key, without_lines(value or yaml.ScalarNode("tag:yaml.org,2002:null", "")))


def without_lines(node: yaml.Node) -> yaml.Node:
    """The node without its places, which are no lines of the study file."""
    node.start_mark = None
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            for child in pair:
                without_lines(child)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            without_lines(child)
    return node


def assign(node: yaml.Node, key: str, value: yaml.Node) -> None:
    """Set `key`, a path from `node`, adding the mappings on the way."""
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"--set …{key}: expected a mapping around it, found {found_in(node)}")
    for position, (name, child) in enumerate(node.value):
        if name.value == key or (is_null(child) and key.startswith(f"{name.value}.")):
            rest = key.removeprefix(name.value).lstrip(".")
            node.value[position] = (name, nested(rest, value) if rest else value)
            without_lines(name)
            return
        # Names may have dots (pythia-1.4b): those that are there come first.
        if key.startswith(f"{name.value}.") and not is_null(child):
            assign(child, key.removeprefix(f"{name.value}."), value)
            return
    first, _, rest = key.partition(".")
    child = nested(rest, value) if rest else value
    node.value.append((yaml.ScalarNode(TEXT, first), child))


def nested(key: str, value: yaml.Node) -> yaml.Node:
    """A mapping with `key`, a path, alone."""
    mapping = yaml.MappingNode(MAP, [])
    assign(mapping, key, value)
    return mapping


def share_options(root: yaml.Node) -> None:
    """Give every recipe the options of the section `finetune` that it does not set itself, and remove the section."""
    shared, recipes = pop(root, SHARED), child_of(root, RECIPES)
    if shared is None or not isinstance(recipes, yaml.MappingNode):
        return
    if not isinstance(shared, yaml.MappingNode):
        place = f"line {line_of(shared)}: " if line_of(shared) else "--set: "
        raise UserError(f"{place}{SHARED}: expected a mapping of options of fine-tuning")
    for position, (name, recipe) in enumerate(recipes.value):
        if not isinstance(recipe, yaml.MappingNode):
            if recipe.value:
                continue
            recipe = yaml.MappingNode(MAP, [], recipe.start_mark)
            recipes.value[position] = (name, recipe)
        own = [key.value for key, _ in recipe.value]  # a key may be a list, which is refused later
        recipe.value.extend(pair for pair in shared.value if pair[0].value not in own)


def child_of(node: yaml.Node, key: str) -> yaml.Node | None:
    children = node.value if isinstance(node, yaml.MappingNode) else []
    return next((child for name, child in children if name.value == key), None)


def pop(node: yaml.Node, key: str) -> yaml.Node | None:
    """Remove a section, and return it."""
    found = child_of(node, key)
    if isinstance(node, yaml.MappingNode):
        node.value[:] = [(name, child) for name, child in node.value if name.value != key]
    return found
