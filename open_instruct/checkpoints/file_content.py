"""Is a file of the kind that its name says, and whole? Web pages and cut files are not."""

import json
import zipfile
from pathlib import Path

import yaml


def check_content(path: Path, name: str, *, deep: bool) -> str | None:
    """Check `path`, which holds a file called `name`; `deep` reads all of it where its format has checksums.

    Returns how its content was proved (None: its format proves nothing). Raises ValueError where it is no such file.
    """
    with path.open("rb") as file:
        beginning = file.read(512)
    if beginning.lstrip().lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
        raise ValueError("it is a web page")
    if name.endswith((".pt", ".bin")):
        return check_torch(path, beginning, deep=deep)
    if name.endswith(".safetensors"):
        return check_safetensors(path)
    if name.endswith((".yaml", ".yml", ".json")):
        return check_text(path, name)
    return None


def check_torch(path: Path, beginning: bytes, *, deep: bool) -> str | None:
    """torch.save makes a zip archive, with a directory at its end and a CRC of every tensor."""
    if not beginning.startswith(b"PK\x03\x04"):
        if beginning.startswith(b"\x80"):
            return None  # a pickle, as old versions of torch wrote it: nothing to check it by
        raise ValueError(f"it begins with {beginning[:8]!r}, which no file of torch does")
    try:
        with zipfile.ZipFile(path) as archive:
            if deep and (damaged := archive.testzip()):
                raise ValueError(f"{damaged} in it is damaged")
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
        raise ValueError(f"it is cut short or damaged ({error})") from error
    return "crc32 of every tensor" if deep else None


def check_safetensors(path: Path) -> None:
    """The header tells where every tensor lies; the file ends with the last one."""
    num_bytes = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if not 2 <= header_bytes <= num_bytes - 8:
            raise ValueError("it has no header of safetensors")
        try:
            header = json.loads(file.read(header_bytes))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise ValueError(f"its header is not one of safetensors ({error})") from error
    if 8 + header_bytes + max(ends, default=0) != num_bytes:
        raise ValueError(f"it has {num_bytes:,} bytes, its header tells {8 + header_bytes + max(ends, default=0):,}")


def check_text(path: Path, name: str) -> None:
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text) if name.endswith(".json") else yaml.safe_load(text)
    except (UnicodeDecodeError, json.JSONDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"it cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected options by name, found {str(value)[:40]!r}")
    # Cut YAML is YAML: a config of OLMo ends with a line and has these sections, in this order and far apart.
    if name == "config.yaml" and not (text.endswith("\n") and {"model", "tokenizer"} <= value.keys()):
        raise ValueError("it lacks its section `model` or `tokenizer`, or its last line is cut")
