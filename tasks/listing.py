"""Lists of the server's, which gives a page of them at a time."""

from collections.abc import Callable
from typing import Any, TypeVar

PAGE = 200  # what the server gives at once
T = TypeVar("T")


def everything(read: Callable[..., list[T]], **asked: Any) -> list[T]:
    """All that a client's `read_...` finds, page after page."""
    found: list[T] = []
    while page := read(**asked, limit=PAGE, offset=len(found)):
        found += page
    return found
