"""So much memory for work in this process, whoever asks for it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from core.allocator import give_back_large_arrays


class Room:
    """Bytes that work may take at a time; work that needs more than all of them goes alone."""

    def __init__(self, total_bytes: int) -> None:
        self.total = self.free = total_bytes
        self._changed = threading.Condition()
        self._settled = False

    @contextmanager
    def taken(self, count: int) -> Iterator[None]:
        """Wait until so many bytes are free, and hold them."""
        count = min(count, self.total)
        with self._changed:
            if not self._settled:
                self._settled = True
                give_back_large_arrays()
            self._changed.wait_for(lambda: self.free >= count)
            self.free -= count
        try:
            yield
        finally:
            with self._changed:
                self.free += count
                self._changed.notify_all()
