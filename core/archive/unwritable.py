"""A place that cannot be written, in one line."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from core.errors import FewcastError


@contextmanager
def one_line_if_unwritable(url: str) -> Iterator[None]:
    """Raise `FewcastError` for what a full or read-only disk makes of writing the archive at a URL."""
    try:
        yield
    except FewcastError:  # some are of an OSError too, and say already what is wrong
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise FewcastError(
                f"no space left for the archive {url}", found=str(error), mend="free some space and run again"
            ) from error
        raise FewcastError(
            f"the archive {url} cannot be written", found=str(error), mend="mend that and run again"
        ) from error
