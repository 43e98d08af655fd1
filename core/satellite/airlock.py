"""The process that lets the HDF5 library at a foreign file, so that a crash, a hang or a flood of memory is its own.

Run as a program: it reads requests from standard input and answers on standard output until the input ends. Frames
are a letter, a length (8 bytes, little-endian) and a payload. In: `Q` what is asked (JSON), then `F` the file's bytes,
or `R` (JSON) the size of a file whose bytes are asked for with `N` and come as `B`. Out: `A` a description (JSON), `W`
raw values, `X` why it cannot be read; first of all `H`, when it is ready.
"""

import base64
import contextlib
import fcntl
import io
import json
import math
import signal
import struct
from collections.abc import Callable
from typing import IO, Any

PIPE_BYTES = 1 << 20
HEADER = struct.Struct("<cQ")
# Coordinates and scalars come along with the description; larger arrays are read by windows.
SMALL_BYTES = 1 << 20
PIECE_BYTES, MOST_PIECES = 1 << 16, 256
MOST_VARIABLES = 200
# What a projection with several parallels, or a range of values, takes.
FEW_VALUES = 8
MEMORY_BYTES = 6 << 30
# A description takes milliseconds, a window of a full disk seconds: beyond these (CPU seconds) the library is lost in a
# loop. A busy machine slows the clock on the wall, but not this one.
DESCRIPTION_SECONDS, WINDOW_SECONDS = 2.0, 20.0
# How NetCDF ties arrays to their coordinates: references, told as the names of the dimensions.
DIMENSION_ATTRIBUTES = {"CLASS", "NAME", "REFERENCE_LIST", "DIMENSION_LIST", "_Netcdf4Coordinates", "_Netcdf4Dimid"}


def send(stream: IO[bytes], kind: bytes, payload: bytes) -> None:
    stream.write(HEADER.pack(kind, len(payload)))
    stream.write(payload)
    stream.flush()


def receive(read: Callable[[int], bytes]) -> tuple[bytes, bytes]:
    """One frame; `EOFError` where the other side has gone."""
    kind, length = HEADER.unpack(exactly(read, HEADER.size))
    return kind, exactly(read, length)


def widen(pipe: int | IO[bytes]) -> None:
    """Let a small granule in at once, not in turns of 64 kB; a user may have only so many such pipes."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def exactly(read: Callable[[int], bytes], count: int) -> bytes:
    parts, missing = [], count
    while missing:
        part = read(min(missing, 1 << 24))
        if not part:
            raise EOFError
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


class Asked(io.RawIOBase):
    """A seekable file whose bytes are asked for on the way, in pieces that the library's many small reads share."""

    def __init__(self, size: int, ask: Callable[[int, int], bytes]) -> None:
        self.size, self.ask, self.position = size, ask, 0
        self.kept: dict[int, bytes] = {}

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence])
        return self.position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, short only at the end of the file: the library takes a short read for all there is."""
        view = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(view) and self.position < self.size:
            number, offset = divmod(self.position, PIECE_BYTES)
            if number not in self.kept:
                if len(self.kept) >= MOST_PIECES:
                    self.kept.clear()
                self.kept[number] = self.ask(number * PIECE_BYTES, PIECE_BYTES)
            piece = self.kept[number][offset : offset + len(view) - filled]
            view[filled : filled + len(piece)] = piece
            filled += len(piece)
            self.position += len(piece)
        return filled


def opened(content: bytes | Asked) -> Any:
    import h5py

    if isinstance(content, Asked):
        return h5py.File(content, "r")
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fapl_core(backing_store=False)
    access.set_file_image(content)
    return h5py.File(h5py.h5f.open(b"granule", h5py.h5f.ACC_RDONLY, fapl=access))


def described(file: Any) -> dict[str, Any]:
    """Attributes and root variables; links to elsewhere are not followed."""
    import h5py

    variables = {}
    for name in list(file)[:MOST_VARIABLES]:
        if isinstance(file.get(name, getlink=True), h5py.HardLink):
            try:
                found = file[name]
                if isinstance(found, h5py.Dataset):
                    variables[name] = variable(found)
            except Exception as error:
                variables[name] = {"bad": text(error)}
    return {"attributes": attributes(file), "variables": variables}


def variable(found: Any) -> dict[str, Any]:
    result = {"shape": found.shape, "dtype": found.dtype.str, "attributes": attributes(found), "layout": None}
    if found.dtype.kind in "iuf" and found.shape is not None:
        if found.ndim < 2 and found.size * found.dtype.itemsize <= SMALL_BYTES:
            result["values"] = base64.b64encode(found[()].tobytes()).decode()
        else:
            result["layout"] = layout(found)
            result["dimensions"] = dimensions(found)
    return result


def dimensions(found: Any) -> list[list[str]]:
    """The names of the coordinates tied to each dimension; nothing where these ties cannot be read."""
    try:
        return [[scale.name.rpartition("/")[2] for scale in dimension.values()] for dimension in found.dims]
    except Exception:
        return []


def layout(found: Any) -> dict[str, Any] | None:
    """Where the raw values lie in the file; None where only the library can tell."""
    created = found.id.get_create_plist()
    filters = [created.get_filter(i)[0] for i in range(created.get_nfilters())]
    if found.chunks is None:
        offset = found.id.get_offset()
        return None if offset is None or filters else {"offset": offset, "bytes": found.id.get_storage_size()}
    places: list[tuple[int, ...]] = []
    found.id.chunk_iter(lambda c: places.append((*c.chunk_offset, c.byte_offset, c.size, c.filter_mask)))
    return {"chunks": found.chunks, "filters": filters, "places": places}


def attributes(owner: Any) -> dict[str, Any]:
    """All attributes by the low-level interface, which takes a third of the time of the other."""
    import h5py

    result: dict[str, Any] = {}
    for i in range(h5py.h5a.get_num_attrs(owner.id)):
        name = f"{i}"
        try:
            found = h5py.h5a.open(owner.id, index=i)
            name = found.name.decode()
            if name not in DIMENSION_ATTRIBUTES:
                result[name] = value(found)
        except Exception as error:
            result[name] = {"bad": text(error)}
    return result


def value(found: Any) -> Any:
    """An attribute as JSON has it: one number or one text, or a few numbers; more tell only how many they are."""
    import numpy as np

    shape = found.shape
    count = math.prod(shape) if shape is not None else 0
    numbers = found.dtype.kind in "iufb"
    if count != 1 and not (numbers and 1 < count <= FEW_VALUES):
        return {"bad": f"{count} values"}
    read = np.empty(shape, found.dtype)
    found.read(read)
    if count > 1:
        return read.reshape(-1).tolist()
    only = read.reshape(-1)[0]
    if isinstance(only, bytes):
        return only.decode("ascii")
    if isinstance(only, str):
        return only
    if isinstance(only, np.generic) and only.dtype.kind in "iufb":
        return only.item()
    return {"bad": f"a {type(only).__name__}"}


def text(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def answer(asked: dict[str, Any], content: bytes | Asked) -> tuple[bytes, bytes]:
    """What is asked of the file; SIGPROF ends the process where that takes too long."""
    signal.setitimer(signal.ITIMER_PROF, WINDOW_SECONDS if "window" in asked else DESCRIPTION_SECONDS)
    try:
        with opened(content) as file:
            if "window" not in asked:
                return b"A", json.dumps(described(file)).encode()
            top, bottom, left, right = asked["window"]
            return b"W", file[asked["name"]][..., top:bottom, left:right].tobytes()
    except Exception as error:
        return b"X", text(error).encode()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> None:
    import os
    import resource
    import sys

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not come between the frames

    def ask(start: int, count: int) -> bytes:
        send(sink, b"N", json.dumps([start, count]).encode())
        return receive(source.read)[1]

    import h5py  # noqa: F401 - slow to load, and the parent waits longer for the greeting than for an answer

    send(sink, b"H", b"")
    while True:
        try:
            asked = json.loads(receive(source.read)[1])
            kind, payload = receive(source.read)
        except EOFError:
            return
        send(sink, *answer(asked, payload if kind == b"F" else Asked(json.loads(payload), ask)))


if __name__ == "__main__":
    main()
