"""Whole objects under a prefix of an S3 bucket."""

import errno
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import aiohttp
import fsspec
from botocore.exceptions import BotoCoreError, NoCredentialsError, PartialCredentialsError

from core.errors import AwayError, FewcastError

T = TypeVar("T")
TRIES, FIRST_WAIT_SECONDS = 9, 0.2
# How long a server may be silent.
SILENT_SECONDS = 20.0
TAIL_BYTES, LARGEST_BYTES = 1 << 20, 5 << 30
PASSING = (OSError, TimeoutError, BotoCoreError, aiohttp.ClientError)


class ReplacedError(Exception):
    """An object is no longer the version that it was taken for: begin again with what is there now."""


class _Piece(NamedTuple):
    """A range of an object: where it begins, the whole object's size, and the version that it is of."""

    data: bytes
    offset: int
    size: int
    tag: str


class RemoteObjects:
    """A prefix of an S3 bucket through s3fs; one put is one PUT, acknowledged when it is durable.

    Every call is tried again, with growing and jittered waits, on what may pass: server errors, throttling, resets.
    """

    readers = 16

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        from core.patience import Patience

        told = {
            # The tries are ours: stacked with those of s3fs and botocore they would multiply.
            "retries": {"total_max_attempts": 1},
            "connect_timeout": SILENT_SECONDS,
            "read_timeout": SILENT_SECONDS,
            "http_session_cls": Patience,
            "max_pool_connections": self.readers,
        }
        filesystem: tuple[Any, str] = fsspec.core.url_to_fs(self.url, use_listings_cache=False, config_kwargs=told)
        self.fs, self.prefix = filesystem
        self.fs.retries = 1
        self.bucket, _, self.folder = self.prefix.partition("/")

    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes | None:
        def attempt() -> bytes | None:
            try:
                content: bytes = self.fs.cat_file(f"{self.prefix}/{key}", start=start, end=end)
            except FileNotFoundError:
                return None
            return content

        return self._persist(attempt)

    @contextmanager
    def reader(self, key: str) -> Iterator[Callable[[int, int | None], bytes | None]]:
        """The end of the object comes with the first read: most frames are whole in it, so one request serves them."""
        held: _Piece | None = None

        def read(start: int, end: int | None) -> bytes | None:
            nonlocal held
            if held is None:
                try:
                    held = self._range(key, f"-{max(-start, TAIL_BYTES)}")
                except FileNotFoundError:
                    return None
            begin = start if start >= 0 else max(0, held.size + start)
            stop = held.size if end is None else end
            if begin >= held.offset:
                return held.data[begin - held.offset : stop - held.offset]
            return self._range(key, f"{begin}-{stop - 1}", IfMatch=held.tag).data

        yield read

    def _range(self, key: str, span: str, **condition: str) -> _Piece:
        async def ask() -> _Piece:
            answer = await self.fs._call_s3(
                "get_object", Bucket=self.bucket, Key=self._path(key), Range=f"bytes={span}", **condition
            )
            async with answer["Body"] as body:
                data = await body.read()
            place = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.get("ContentRange", ""))
            offset, size = (int(place[1]), int(place[2])) if place else (0, len(data))
            return _Piece(data, offset, size, answer["ETag"])

        try:
            return self._persist(lambda: fsspec.asyn.sync(self.fs.loop, ask))
        except OSError as error:
            if condition and error.errno == errno.EINVAL:
                raise ReplacedError(key) from error
            raise

    def put(self, key: str, data: bytes, over: str | None = None) -> None:
        told: dict[str, Any] = {}
        if over is not None:  # in one request, since s3fs leaves the condition out of one by parts
            told = {"chunksize": LARGEST_BYTES} | ({"IfMatch": over} if over else {"IfNoneMatch": "*"})
        path = f"{self.prefix}/{key}"
        try:
            self._persist(lambda: self.fs.pipe_file(path, data, **told))
        except AwayError:
            raise
        except OSError as error:
            gone = isinstance(error, FileNotFoundError) and bool(over)
            if over is not None and (gone or isinstance(error, FileExistsError) or error.errno == errno.EINVAL):
                raise ReplacedError(key) from error
            raise

    def tag(self, key: str) -> str:
        try:
            return str(self.call("head_object", key)["ETag"])
        except FileNotFoundError:
            return ""

    def keys(self, prefix: str) -> Iterator[tuple[str, int]]:
        for key, info in self.listing(prefix).items():
            yield key, info["size"]

    def listing(self, prefix: str) -> dict[str, dict[str, Any]]:
        """What the bucket says of each object under a prefix folder."""
        found = self._persist(lambda: self.fs.find(f"{self.prefix}/{prefix}".rstrip("/"), detail=True))
        return {path[len(self.prefix) + 1 :]: info for path, info in found.items()}

    def delete(self, key: str) -> None:
        self.call("delete_object", key)

    def _path(self, key: str) -> str:
        return f"{self.folder}/{key}".lstrip("/")

    def sweep(self) -> None:
        """Nothing: an interrupted PUT leaves no object."""

    def call(self, method: str, key: str, **arguments: Any) -> dict[str, Any]:
        """One raw S3 call on a key, for what needs conditions and entity tags."""
        answer: dict[str, Any] = self._persist(
            lambda: self.fs.call_s3(method, Bucket=self.bucket, Key=self._path(key), **arguments)
        )
        return answer

    def _persist(self, attempt: Callable[[], T]) -> T:
        wait = FIRST_WAIT_SECONDS
        for trial in range(TRIES):
            try:
                return attempt()
            except (FileNotFoundError, FileExistsError):
                raise
            except (PermissionError, NoCredentialsError, PartialCredentialsError) as error:
                raise FewcastError(
                    f"access to {self.url} was refused", found=_line(error), mend="correct the AWS_* credentials"
                ) from error
            except PASSING as error:
                if getattr(error, "errno", None) == errno.EINVAL:  # s3fs's name for a condition that does not hold
                    raise
                if trial == TRIES - 1:
                    raise AwayError(
                        f"{self.url} cannot be reached",
                        found=_line(error),
                        mend="check the network and AWS_ENDPOINT_URL, then run again",
                    ) from error
            time.sleep(wait * random.uniform(0.5, 1))
            wait *= 2
        raise AssertionError("the last trial returns or raises")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
