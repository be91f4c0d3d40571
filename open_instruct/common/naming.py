"""Names of outputs: each setting that differs from its default is a part of the name, so equal names mean equal work.

A settings dataclass declares the part beside the field: `rows: int | None = named(None, "rows{}")`.
"""

import dataclasses
import hashlib
from typing import Any

LONGEST_NAME = 180
"""Characters of a file name, which file systems limit to 255; sidecars and temporary files add to it."""
HASH_CHARACTERS = 10


def named(default: Any, part: str, *, aliases: tuple[str, ...] = ()) -> Any:
    """A field with a default whose other values are a part of the name.

    part: format of the part, in which `{}` is the value; aliases: other names of the option and of the key.
    """
    return dataclasses.field(default=default, metadata={"part": part, "aliases": aliases})


def suffix(settings: Any) -> str:
    """`_rows600_bs16`: the parts of all named fields that are not at their default, in their order."""
    parts = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if "part" in field.metadata and value is not None and value != field.default:
            parts.append(field.metadata["part"].format(short(value)))
    return "".join(f"_{part}" for part in parts)


def in_words(suffix: str) -> str | None:
    """A suffix as a table shows it: `_fp32_warmup0.1` -> `fp32 warmup0.1`; None where nothing differs."""
    return suffix.lstrip("_").replace("_", " ") or None


def short(value: Any) -> str:
    """A number without needless digits: 2e-06 -> `2e-6`, 0.10 -> `0.1`."""
    if not isinstance(value, float):
        return str(value)
    return short_float(value) if 0 < abs(value) <= 1e-3 else f"{value:g}"


def short_float(value: float) -> str:
    """A learning rate as the paper writes it: 2e-06 -> `2e-6`, 1.5e-6 -> `1.5e-6`, 0.001 -> `1e-3`."""
    mantissa, exponent = f"{value:e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def shortened(name: str) -> str:
    """`name`, the end of one that is too long replaced by a hash of the whole."""
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - HASH_CHARACTERS - 1]}_{hashlib.sha256(name.encode()).hexdigest()[:HASH_CHARACTERS]}"
