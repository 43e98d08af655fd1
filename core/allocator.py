"""glibc's allocator keeps freed memory by default. All of this does nothing where the C library is another one."""

import ctypes

# glibc's name for the size from which an allocation is a mapping of its own, which goes back to the system when freed.
M_MMAP_THRESHOLD, MAPPED_BYTES = -3, 4 << 20


def give_back_large_arrays() -> None:
    """From now on return large arrays to the system when they are freed; it would keep tens of megabytes a thread.

    For work on few, large arrays: each allocation then costs page faults, which slow down many small steps.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)


def give_back_free_pages() -> None:
    """Return now, in milliseconds, what lies free between the arrays that are kept.

    For loops that keep a few numbers of large arrays in every turn: the numbers come to lie among what is freed, and
    the memory of the process grows by megabytes a turn without holding anything.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
