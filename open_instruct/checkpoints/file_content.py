"""Check that a file is complete and of the kind that its name says: web pages and truncated files are refused."""

import json
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

from open_instruct.common.errors import UserError
from open_instruct.common.yaml_files import load_text


def check_content(path: Path, name: str, *, deep: bool) -> str | None:
    """Check `path`, the content of a file called `name`; `deep` reads all of it where its format has checksums.

    Returns what verified the content, or None where its format has no checksums. Raises ValueError for any other file.
    """
    with path.open("rb") as file:
        beginning = file.read(512)
    if beginning.lstrip().lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
        raise ValueError("it is a web page")
    if name.endswith((".pt", ".bin")):
        return check_torch(path, beginning, deep=deep)
    if name.endswith(".safetensors"):
        check_safetensors(path)
    elif name.endswith((".yaml", ".yml", ".json")):
        check_text(path, name)
    return None


def check_torch(path: Path, beginning: bytes, *, deep: bool) -> str | None:
    """torch.save writes a zip archive, with a directory at its end and a CRC of every tensor."""
    if not beginning.startswith(b"PK\x03\x04"):
        if beginning.startswith(b"\x80"):
            return None  # a pickle, as old versions of torch wrote it, has no checksums
        raise ValueError(f"it begins with {beginning[:8]!r}, which no torch file does")
    try:
        with zipfile.ZipFile(path) as archive:
            if deep and (damaged := archive.testzip()):
                raise ValueError(f"{damaged} in it is damaged")
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
        raise ValueError(f"it is cut short or damaged ({error})") from error
    return "crc32 of every tensor" if deep else None


def check_safetensors(path: Path) -> None:
    """Opening a safetensors file compares its length with its header."""
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise ValueError(f"it is not a complete safetensors file ({error})") from error


def check_text(path: Path, name: str) -> None:
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text) if name.endswith(".json") else load_text(text, place=name)
    except (ValueError, RecursionError, UserError) as error:
        raise ValueError(f"it cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected options by name, found {str(value)[:40]!r}")
    # Truncated YAML is still YAML. OLMo's config ends with a newline and has these two sections, far apart.
    if name == "config.yaml" and not (text.endswith("\n") and {"model", "tokenizer"} <= value.keys()):
        raise ValueError("it lacks its section `model` or `tokenizer`, or its last line is cut")
