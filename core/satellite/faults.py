"""The ways in which real archives go wrong, done on purpose and reproducibly."""

from enum import StrEnum

import numpy as np

HTML = b"<!DOCTYPE html><html><head><title>503 Service Unavailable</title></head><body>Try again.</body></html>"
FLIPPED_BITS = 24


class Fault(StrEnum):
    """What is wrong with a granule."""

    TRUNCATED = "truncated"
    FLIPPED = "bits flipped"
    DUPLICATED = "the slot before, under this slot's key"
    LATE = "published only after a later one"
    MISLABELLED = "another band, under this band's key"
    WRONG_GRID = "another pixel size"
    HTML = "an error page"
    ALL_ZERO = "all counts zero"


def fault_of(seed: int, channel: str, time: np.datetime64, share: float) -> Fault | None:
    """The fault of a granule, of which a `share` has one; a function of its arguments alone."""
    minute = int(time.astype("datetime64[m]").astype(np.int64))
    generator = np.random.default_rng([seed, 3, *channel.encode(), minute])
    if generator.uniform() >= share:
        return None
    return list(Fault)[generator.integers(len(Fault))]


def spoil(fault: Fault | None, content: bytes, generator: np.random.Generator) -> bytes:
    """The file's bytes as they arrive; faults of what the file says are made where it is written."""
    if fault == Fault.TRUNCATED:
        return content[: int(generator.integers(len(content)))]
    if fault == Fault.HTML:
        return HTML
    if fault == Fault.FLIPPED:
        flipped = np.frombuffer(content, np.uint8).copy()
        places = generator.integers(len(flipped), size=FLIPPED_BITS)
        flipped[places] ^= np.uint8(1) << generator.integers(8, size=FLIPPED_BITS, dtype=np.uint8)
        return flipped.tobytes()
    return content
