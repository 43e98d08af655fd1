"""What a model refuses, value by value: where it stands, what was given, and what is wanted there."""

import difflib
from functools import lru_cache
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

Place = tuple[int | str, ...]


class Problem(NamedTuple):
    """One value that a model does not take."""

    place: Place
    found: str  # what was given, and what is wrong with it
    meaning: str  # the key's description with its bounds

    @property
    def key(self) -> str:
        return ".".join(map(str, self.place)) or "the whole"


def problems(error: ValidationError, kind: type[BaseModel]) -> list[Problem]:
    """What pydantic has found wrong with the values of a model, each problem in words for who gave them."""
    found = error.errors()
    return [Problem(e["loc"], _words(e, kind), _meaning(kind, e["loc"])) for e in found]


def _words(error: Any, kind: type[BaseModel]) -> str:
    if error["type"] == "extra_forbidden":
        return f"no such key{_nearest(kind, error['loc'])}"
    if error["type"] == "missing":
        return "nothing, where a value is required"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    whole = isinstance(error["input"], dict | list)  # too long to repeat
    return str(error["msg"]) if whole else f"{error['input']!r} ({error['msg']})"


def _nearest(kind: type[BaseModel], place: Place) -> str:
    """` (is it train.steps?)` for a key that is nearly one of its table's."""
    table: Any = kind
    for part in place[:-1]:
        field = getattr(table, "model_fields", {}).get(part)
        table = field.annotation if field else None
    names = difflib.get_close_matches(str(place[-1]), list(getattr(table, "model_fields", {})), 1)
    return f" (is it {'.'.join(map(str, (*place[:-1], names[0])))}?)" if names else ""


def _meaning(kind: type[BaseModel], place: Place) -> str:
    """The description of the innermost key on the way to a place that has one."""
    schema = _schema(kind)
    table, meaning = schema, schema.get("description", "")
    for part in place:
        field = table.get("items", {}) if isinstance(part, int) else table.get("properties", {}).get(part, {})
        table = schema["$defs"].get(field.get("$ref", "").rpartition("/")[2], field)
        meaning = field.get("description") or table.get("description") or meaning
    return str(meaning)


@lru_cache
def _schema(kind: type[BaseModel]) -> dict[str, Any]:
    return {"$defs": {}} | kind.model_json_schema()
