"""Every key of the configuration, as a table."""

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from core.config import PipelineConfig
from core.errors import FewcastError


def rows(model: type[BaseModel] = PipelineConfig, prefix: str = "") -> Iterator[tuple[str, str, str, str, str]]:
    """(key, type, bounds, default, description) of every field, those of nested stages with dots."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        nested = _model(field.annotation)
        if nested is not None and get_origin(field.annotation) is None:
            yield from rows(nested, f"{key}.")
        else:
            yield key, _type(field.annotation), _bounds(field), _default(field), field.description or ""
            if nested is not None:
                yield from rows(nested, f"{key}[].")


def print_reference(start: str = "") -> None:
    """Print all keys that begin with `start`, each on a line that grep finds, with its meaning below.

    Raises `FewcastError` where none does.
    """
    found = [row for row in rows() if row[0].startswith(start)]
    if not found:
        raise FewcastError("no such key", found=repr(start), mend="see `fewcast config` for all of them")
    for key, kind, bounds, default, meaning in found:
        print(
            "  ".join(part for part in (key, kind, bounds, f"default: {default}") if part), f"    {meaning}", sep="\n"
        )


def _model(annotation: Any) -> type[BaseModel] | None:
    """The nested stage of a field, itself or as the items of a list."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _type(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " | ".join(repr(choice) for choice in get_args(annotation))
    arguments = ", ".join(_type(argument) for argument in get_args(annotation))
    name = getattr(get_origin(annotation) or annotation, "__name__", str(annotation))
    return f"{name}[{arguments}]" if arguments else name


def _bounds(field: FieldInfo) -> str:
    signs = {
        "ge": ">=",
        "gt": ">",
        "le": "<=",
        "lt": "<",
        "min_length": "length >=",
        "max_length": "length <=",
        "pattern": "matches",
    }
    found = []
    for constraint in field.metadata:
        found += [
            f"{sign} {getattr(constraint, name)}"
            for name, sign in signs.items()
            if getattr(constraint, name, None) is not None
        ]
    return ", ".join(found)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True) if field.default is PydanticUndefined else field.default
    return repr(value)
