"""Seeded mutations of files: what editors, broken copies and other programs make of them.

for mutation in mutations(path.read_bytes(), MUTATORS[".json"], seed=0, count=100):
    path.write_bytes(mutation.content)  # and print mutation.name where a test fails
"""

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import yaml

HOLE = "\u2063hole\u2063"
"""Stands in a JSON document where text is put that json.dumps does not write."""
ODD_VALUES = {
    "null": "null",
    "true": "true",
    "zero": "0",
    "negative": "-1",
    "fraction": "0.5",
    "huge": "1" + "0" * 30,
    "long number": "9" * 5_000,
    "beyond floats": "1e999",
    "NaN": "NaN",
    "-Infinity": "-Infinity",
    "empty text": '""',
    "space": '" "',
    "text": '"abc"',
    "number as text": '"12"',
    "surrogate": '"a \\ud83d b"',
    "NUL": '"a\\u0000b"',
    "line break": '"a\\nb"',
    "line separator": '"a\\u2028b"',
    "format": '"{0} {x} %s"',
    "path": '"../../x"',
    "long text": json.dumps("word " * 2_000),
    "end of text": '"<|endoftext|>"',
    "empty list": "[]",
    "list": '["a", 1]',
    "list of null": "[null]",
    "empty object": "{}",
    "object": '{"a": 1}',
    "deep list": "[" * 20_000 + "]" * 20_000,
    "deep object": '{"a":' * 2_000 + "1" + "}" * 2_000,
    "moderately deep list": "[" * 60 + "]" * 60,
}
"""JSON text by name."""
ENCODINGS = ("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "latin-1", "cp037")


@dataclass(frozen=True)
class Mutation:
    name: str
    """What was done, and where."""
    content: bytes


Mutator = Callable[[bytes, Random], Mutation]


def mutations(content: bytes, mutator: Mutator, *, seed: int, count: int) -> Iterator[Mutation]:
    """Mutations that differ from `content`, the same ones for a seed."""
    random = Random(seed)
    for _ in range(count):
        mutation = mutator(content, random)
        while mutation.content == content:
            mutation = mutator(content, random)
        yield mutation


def mutate_bytes(content: bytes, random: Random) -> Mutation:
    """Flip, cut, remove, insert, repeat bytes; encode otherwise."""
    start = random.randrange(len(content) + 1)
    end = min(start + random.choice((1, 2, 8, 64)), len(content))
    kind = random.choice(("flip", "cut", "remove", "insert", "NUL", "repeat", "encode", "empty", "BOM"))
    if kind == "flip":
        flipped = bytes(byte ^ 1 << random.randrange(8) for byte in content[start:end])
        return Mutation(f"flip {start}-{end}", content[:start] + flipped + content[end:])
    if kind == "encode":
        encoding = random.choice(ENCODINGS)
        text = content.decode(errors="replace").replace("cat", "café")
        return Mutation(f"encoded as {encoding}", text.encode(encoding, errors="replace"))
    changed = {
        "cut": content[:start],
        "remove": content[:start] + content[end:],
        "insert": content[:start] + random.randbytes(end - start + 1) + content[start:],
        "NUL": content[:start] + bytes(end - start + 1) + content[end:],
        "repeat": content[:end] + content[start:],
        "empty": b"",
        "BOM": codecs.BOM_UTF8 + content,
    }
    return Mutation(f"{kind} {start}-{end}", changed[kind])


def mutate_json(content: bytes, random: Random, *, indent: int | None = None) -> Mutation:
    """Change one value or key of a JSON document, or its bytes (one in four)."""
    if random.random() < 0.25:
        return mutate_bytes(content, random)
    return mutate_tree(json.loads(content), random, indent=indent)


def mutate_tree(document: Any, random: Random, *, indent: int | None = None) -> Mutation:
    """Replace, wrap, remove, repeat or rename one node of a document, which is changed in place; -> its JSON."""
    parent, key = place(document, random)
    if parent is None:
        return Mutation("whole document", ODD_VALUES[random.choice(list(ODD_VALUES))].encode())
    value = parent[key]
    kind = random.choice(("replace", "replace", "replace", "wrap", "remove", "twice", "rename", "add", "as text"))
    odd_name = random.choice(list(ODD_VALUES))
    odd = ODD_VALUES[odd_name]
    hole = odd
    if kind == "wrap":
        hole = f"[{json.dumps(value)}]"
    elif kind == "as text":
        hole = json.dumps(json.dumps(value))
    elif kind == "twice":
        hole = f"{json.dumps(value)}, " + (f"{json.dumps(key)}: {odd}" if isinstance(parent, dict) else odd)
    if kind == "remove":
        del parent[key]
    elif kind == "rename" and isinstance(parent, dict):
        name = str(key)
        parent[random.choice((name.upper(), f"{name} ", name[:-1], "extra", ""))] = parent.pop(key)
    elif kind == "add" and isinstance(parent, dict):
        parent["extra"] = HOLE
    else:
        parent[key] = HOLE
    text = json.dumps(document, ensure_ascii=False, indent=indent)
    return Mutation(f"{kind} {key!r} ({odd_name})", text.replace(f'"{HOLE}"', hole).encode(errors="surrogatepass"))


def place(document: Any, random: Random) -> tuple[Any, Any]:
    """(parent, key or index) of a value: those near the root more often, so that a long list in it counts as one."""
    parent, key = None, None
    value = document
    while isinstance(value, dict | list) and value and (parent is None or random.random() < 0.7):
        parent, key = value, random.choice(list(value) if isinstance(value, dict) else range(len(value)))
        value = parent[key]
    return parent, key


def mutate_json_lines(content: bytes, random: Random) -> Mutation:
    """Change one record, the order or number of lines, or bytes."""
    if random.random() < 0.2:
        return mutate_bytes(content, random)
    lines = content.splitlines(keepends=True)
    number = random.randrange(len(lines))
    kind = random.choice(("record", "record", "record", "record", "lines"))
    if kind == "record":
        mutation = mutate_tree(json.loads(lines[number]), random)
        lines[number] = mutation.content + b"\n"
        return Mutation(f"line {number + 1}: {mutation.name}", b"".join(lines))
    return mutate_lines(lines, number, random)


def mutate_lines(lines: list[bytes], number: int, random: Random) -> Mutation:
    kind = random.choice(("repeat", "remove", "blank", "join", "swap", "crlf", "no end", "list"))
    line = lines[number]
    changed = {
        "repeat": [*lines, line],
        "remove": lines[:number] + lines[number + 1 :],
        "blank": [*lines[:number], b"\n", *lines[number:]],
        "join": [*lines[:number], line.rstrip(b"\n"), *lines[number + 1 :]],
        "swap": [line, *lines[:number], *lines[number + 1 :]],
        "crlf": [one.replace(b"\n", b"\r\n") for one in lines],
        "no end": [*lines[:-1], lines[-1].rstrip(b"\n")],
        "list": [b"[" + b",".join(one.strip() for one in lines) + b"]"],
    }
    return Mutation(f"line {number + 1}: {kind}", b"".join(changed[kind]))


def mutate_yaml(content: bytes, random: Random) -> Mutation:
    """Change a value or key (JSON is YAML too), a line's indentation, the order or number of lines, or bytes."""
    kind = random.choice(("tree", "tree", "tree", "line", "bytes"))
    if kind == "bytes":
        return mutate_bytes(content, random)
    if kind == "tree":
        return mutate_tree(yaml.safe_load(content), random)
    lines = content.splitlines(keepends=True)
    number = random.randrange(len(lines))
    prefix = random.choice((b"  ", b"\t", b"- ", b"&a ", b"*a ", b"!!python/name:os.system ", b"? ", b"| ", b""))
    if not prefix:
        return mutate_lines(lines, number, random)
    lines[number] = prefix + lines[number]
    return Mutation(f"line {number + 1}: begins with {prefix!r}", b"".join(lines))


def mutate_csv(content: bytes, random: Random) -> Mutation:
    """Change a cell or a row, or bytes."""
    if random.random() < 0.25:
        return mutate_bytes(content, random)
    rows = list(csv.reader(io.StringIO(content.decode())))
    number = random.randrange(len(rows))
    column = random.randrange(len(rows[number]))
    kind = random.choice(("cell", "cell", "cell", "shorter", "longer", "no header", "column", "repeat", "semicolons"))
    row, odd = rows[number], random.choice([*ODD_VALUES.values(), "=1+1", "1,5", "nan", "-", "NA", '"', "1e5", "٣"])
    changed = {
        "cell": [*rows[:number], [*row[:column], odd, *row[column + 1 :]], *rows[number + 1 :]],
        "shorter": [*rows[:number], row[:-1], *rows[number + 1 :]],
        "longer": [*rows[:number], [*row, odd], *rows[number + 1 :]],
        "no header": rows[1:],
        "column": [one[:column] + one[column + 1 :] for one in rows],
        "repeat": [*rows, row],
        "semicolons": rows,
    }
    text = io.StringIO()
    csv.writer(text, delimiter=";" if kind == "semicolons" else ",", lineterminator="\n").writerows(changed[kind])
    return Mutation(f"row {number + 1}, column {column + 1}: {kind}", text.getvalue().encode())


MUTATORS: dict[str, Mutator] = {
    ".json": mutate_json,
    ".jsonl": mutate_json_lines,
    ".yaml": mutate_yaml,
    ".csv": mutate_csv,
}
