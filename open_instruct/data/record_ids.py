"""Ids of records: text or a number, in an evaluation or prediction file each once, for models are compared by item."""

from typing import Any

from open_instruct.common.errors import UserError


def require_id(value: Any, *, place: str, seen: set[str | int] | None = None) -> None:
    """Raises UserError, beginning with `place`, for an id of another type or among `seen`, to which it is added."""
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise UserError(f"{place}: id {value!r}; expected text or a number")
    if seen is not None:
        if value in seen:
            raise UserError(f"{place}: id {value!r} for the second time; expected each item once")
        seen.add(value)
