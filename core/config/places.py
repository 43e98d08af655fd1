"""Places that a pipeline fills where they are left empty, and that a stage by itself must be given."""

from collections.abc import Iterator
from typing import Annotated, NamedTuple

from core.config.base import Stage

_FILLED, _FOLDER = "filled by the pipeline", "a folder of this machine"

Filled = Annotated[str, _FILLED]
FilledFolder = Annotated[str, _FILLED, _FOLDER]


class Misplaced(NamedTuple):
    """A place that a stage by itself cannot use."""

    key: str
    found: str
    mend: str


def misplaced(stage: Stage) -> Iterator[Misplaced]:
    """What of a stage's places is empty, which would mean the working directory, or a URL where a folder is wanted."""
    for key, field in type(stage).model_fields.items():
        value = getattr(stage, key)
        if _FILLED in field.metadata and not value.strip():
            yield Misplaced(key, "nothing", "give it: only a pipeline has a root to fill it from")
        elif _FOLDER in field.metadata and "://" in value:
            yield Misplaced(key, repr(value), "give a folder of this machine")
