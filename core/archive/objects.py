"""Whole objects under a URL: each put is all or nothing, and on a disk it is durable before it returns."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from core.archive.bucket import RemoteObjects, ReplacedError
from core.durable import to_disk
from core.errors import FewcastError

SCRATCH = ".partial"


class Objects(Protocol):
    """What the archive asks of a place: get, put, list and delete of whole objects by key."""

    url: str
    readers: int
    """How many threads to read several objects with."""

    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes | None:
        """The object's bytes, or those of a range (a negative start counts from the end); None if there is none."""

    def reader(self, key: str) -> AbstractContextManager[Callable[[int, int | None], bytes | None]]:
        """Opens one version of the object and gives `read(start, end)`, which is `get` of a range of that version.

        Raises `ReplacedError` where the place has only the newest version and that is another by now.
        """

    def put(self, key: str, data: bytes, over: str | None = None) -> None:
        """Create or replace the object: a reader sees all the old bytes or all the new ones.

        Raises `ReplacedError`, and puts nothing, where the object's tag is not `over`, if one is given.
        """

    def tag(self, key: str) -> str:
        """What tells this version of the object from any other; empty where there is no object."""

    def keys(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Keys directly or deeply under a prefix folder, with their sizes in bytes."""

    def delete(self, key: str) -> None:
        """Remove the object if it is there."""

    def sweep(self) -> None:
        """Remove what killed writers left behind; only the one writer may call this."""


def open_objects(url: str) -> Objects:
    """Objects under a plain path, `file://` or `s3://`, which takes its keys and endpoint from AWS_* variables."""
    if not url:
        raise FewcastError("no archive was named", found="an empty URL", mend="set ingest.archive to a path or s3://")
    url = url.removeprefix("file://")
    if "://" not in url:
        return LocalObjects(url)
    if not url.startswith("s3://"):
        raise FewcastError("an archive cannot live there", found=url, mend="give a path, file:// or s3:// URL")
    return RemoteObjects(url)


class LocalObjects:
    """A folder. A put writes beside, fsyncs, renames and fsyncs the folders above, which zarr's own store does not."""

    readers = 1  # between two chunks threads would wait for each other longer than decompressing takes

    def __init__(self, root: str) -> None:
        self.url = root.rstrip("/") or "/"
        self.root = Path(root)

    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes | None:
        try:
            with open(self.root / key, "rb") as file:
                if start is None:
                    return file.read()
                file.seek(start if start >= 0 else max(0, start + os.fstat(file.fileno()).st_size))
                return file.read() if end is None else file.read(end - start)
        except (FileNotFoundError, NotADirectoryError):
            return None

    @contextmanager
    def reader(self, key: str) -> Iterator[Callable[[int, int | None], bytes | None]]:
        try:
            descriptor = os.open(f"{self.url}/{key}", os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            yield lambda start, end: None
            return
        try:
            size = os.fstat(descriptor).st_size

            def read(start: int, end: int | None) -> bytes:
                begin = start if start >= 0 else max(0, size + start)
                return os.pread(descriptor, (size if end is None else end) - begin, begin)

            yield read
        finally:
            os.close(descriptor)

    def put(self, key: str, data: bytes, over: str | None = None) -> None:
        # Plain strings: with many threads at it, what Python does between two calls of the system is waited for.
        path, scratch = f"{self.url}/{key}", f"{self.url}/{SCRATCH}"
        temporary = f"{scratch}/{uuid.uuid4().hex}"
        try:
            try:
                _write_durably(temporary, data)
            except FileNotFoundError:
                os.makedirs(scratch, exist_ok=True)
                _write_durably(temporary, data)
            if over is not None and self.tag(key) != over:
                raise ReplacedError(key)
            try:
                os.replace(temporary, path)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                os.replace(temporary, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        # All of them each time, since a killed put may have made some and synced none; the first takes the others
        # along, and a folder in which nothing is new costs microseconds.
        for end in range(len(path) - 1, len(self.url) - 1, -1):
            if path[end] == "/":
                to_disk(path[:end])

    def tag(self, key: str) -> str:
        try:
            status = os.stat(f"{self.url}/{key}")
        except (FileNotFoundError, NotADirectoryError):
            return ""
        return f"{status.st_ino}:{status.st_mtime_ns}:{status.st_ctime_ns}"

    def keys(self, prefix: str) -> Iterator[tuple[str, int]]:
        folders = [self.root / prefix]
        while folders:
            try:
                entries = list(os.scandir(folders.pop()))
            except (FileNotFoundError, NotADirectoryError):
                continue
            for entry in entries:
                if entry.is_dir():
                    folders.append(Path(entry.path))
                else:
                    yield os.path.relpath(entry.path, self.root), entry.stat().st_size

    def delete(self, key: str) -> None:
        (self.root / key).unlink(missing_ok=True)

    def sweep(self) -> None:
        shutil.rmtree(self.root / SCRATCH, ignore_errors=True)


def _write_durably(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
