"""So much memory for work in this process, whoever asks for it."""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# glibc's name for the size from which an allocation is a mapping of its own, which goes back to the system when freed.
M_MMAP_THRESHOLD, MAPPED_BYTES = -3, 4 << 20


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


def give_back_large_arrays() -> None:
    """Return large arrays to the system when they are freed; glibc would keep tens of megabytes for every thread.

    Does nothing where the C library is another one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
