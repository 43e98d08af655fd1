"""What a form takes as text, and is an area or a pattern of keys: refused here, and not by the run that reads it."""

from typing import Annotated

from pydantic import AfterValidator

from core.errors import FewcastError
from core.satellite.pattern import expression


def _area(text: str) -> str:
    if not text.strip():
        return text
    from core.satellite.area import AREAS, bounds  # it imports numpy, of which a config has no other need

    try:
        bounds(text)
    except FewcastError:
        ways = f"one of {', '.join(AREAS)}, nor at most 360 degrees wide, nor bounds with south before north"
        raise ValueError(f"{text!r}, which is neither {ways}") from None
    return text


def _pattern(text: str) -> str:
    if text:
        expression(text)
    return text


AreaText = Annotated[str, AfterValidator(_area)]
KeyPattern = Annotated[str, AfterValidator(_pattern)]
