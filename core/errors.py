"""The exceptions that a user is meant to read."""

from typing import Any


class FewcastError(Exception):
    """A run cannot go on: what was wrong, what was found, how to mend it, in one line.

    The command line prints the message alone and exits with 1; a flow run fails with it. Raise it for
    what the *user* can mend (a source, a path, a value); `ValueError` stays for callers of the library.
    """

    def __init__(self, what: str, *, found: str, mend: str) -> None:
        super().__init__(f"{what}: found {found}; {mend}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (type(self), str(self))


class AwayError(FewcastError, OSError):
    """A server that a run needs does not answer: one line for the user, and an `OSError` for those who try again."""


def _unpickled(kind: type[FewcastError], line: str) -> FewcastError:
    """The error as it was on the worker that raised it."""
    error = kind.__new__(kind)
    error.args = (line,)
    return error
