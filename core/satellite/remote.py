"""Bytes from a URL: whole or by blocks, retried with jitter, verified, bounded in memory."""

import hashlib
import random
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import fsspec
from botocore.exceptions import NoCredentialsError, PartialCredentialsError

from core.errors import AwayError, FewcastError
from core.satellite.granule import Granule, Reason, RefusedGranule, UnavailableGranule

T = TypeVar("T")
BLOCK_BYTES = 4 << 20
BLOCKS_KEPT = 16
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.2, 10.0
MD5 = re.compile(r"[0-9a-f]{32}")
NO_ACCESS = (PermissionError, NoCredentialsError, PartialCredentialsError)


class Access(Protocol):
    """What of `IngestConfig` a download needs to know."""

    @property
    def source(self) -> str: ...
    @property
    def endpoint_url(self) -> str: ...
    @property
    def anonymous(self) -> bool: ...
    @property
    def connections(self) -> int: ...
    @property
    def timeout_seconds(self) -> float: ...
    @property
    def retries(self) -> int: ...


def options(config: Access, *, checks: bool = True) -> dict[str, Any]:
    """What fsspec is told of `config.source`; nothing where it is no bucket.

    `checks` lets the client verify the store's own checksums, which is waste where the caller has the MD5.
    """
    if not config.source.startswith("s3://"):
        return {}
    from core.patience import Patience

    told = {
        "anon": config.anonymous,
        # Retries are ours, with jitter over one budget; stacked with botocore's they would multiply.
        "config_kwargs": {
            "retries": {"total_max_attempts": 1},
            "connect_timeout": config.timeout_seconds,
            "read_timeout": config.timeout_seconds,
            "http_session_cls": Patience,
            "max_pool_connections": config.connections + 2,
            # A public bucket is where it is, whatever AWS_ENDPOINT_URL says of our own.
            "ignore_configured_endpoint_urls": config.anonymous,
            "response_checksum_validation": "when_supported" if checks else "when_required",
        },
        # `latest` must see what has just appeared.
        "use_listings_cache": False,
    }
    return told | ({"endpoint_url": config.endpoint_url} if config.endpoint_url else {})


def filesystem(config: Access, *, checks: bool = True) -> tuple[Any, str]:
    """The file system of `config.source` and the path of its root there."""
    try:
        files, root = fsspec.core.url_to_fs(config.source, **options(config, checks=checks))
    except (ValueError, ImportError) as error:
        raise FewcastError(
            f"ingest.source {config.source} cannot be opened",
            found=_line(error),
            mend="use s3://bucket, file:///folder or a path",
        ) from error
    if config.source.startswith("s3://"):
        files.retries = 1
    return files, str(root).rstrip("/")


def retried(attempt: Callable[[], T], config: Access, what: str, *, sleep: Callable[[float], None] = time.sleep) -> T:
    """Call until it succeeds, waiting a random part of a doubling span (seconds) between the tries.

    The jitter is seeded by `what`, so that two granules never wait in step and a run can be repeated.
    Raises `UnavailableGranule`: VANISHED at once where there is nothing, UNREACHABLE after the last try.
    """
    jitter = random.Random(what)
    for trial in range(config.retries + 1):
        try:
            return attempt()
        except FileNotFoundError as error:
            raise UnavailableGranule(Reason.VANISHED, what) from error
        except NO_ACCESS as error:
            raise RefusedGranule(Reason.UNREACHABLE, f"{what}: access denied") from error
        except Exception as error:  # whatever the client library calls a broken connection: OSError is not all
            if trial == config.retries:
                raise UnavailableGranule(Reason.UNREACHABLE, f"{what}: {_line(error)}") from error
        sleep(jitter.uniform(0.1, 1) * min(FIRST_WAIT_SECONDS * 2**trial, LONGEST_WAIT_SECONDS))
    raise AssertionError("unreachable")


class _DiffersError(OSError):
    """What came is not what the listing promised."""


def fetch(granule: Granule, config: Access) -> bytes:
    """The whole file; its size, and its MD5 where the store tells it, agree with the listing's.

    An entity tag may look like an MD5 and be none (encrypted objects): two equal downloads settle it.
    """
    has_digest = MD5.fullmatch(granule.etag) is not None
    files, _ = filesystem(config, checks=not has_digest)
    path = files._strip_protocol(granule.url)
    # s3fs would ask for the size first and, above 50 MB, leave zeros where a range came short.
    options = {"max_concurrency": 1} if config.source.startswith("s3://") else {}
    seen: set[bytes] = set()

    def attempt() -> bytes:
        content: bytes = files.cat_file(path, **options)
        if len(content) != granule.size:
            info = files.info(path)  # it may have been published again since the listing
            if info["size"] == len(content):
                return content
            raise _DiffersError(f"{len(content)} of {info['size']} bytes came")
        if has_digest:
            digest = hashlib.md5(content, usedforsecurity=False)
            if digest.hexdigest() != granule.etag and digest.digest() not in seen:
                seen.add(digest.digest())
                raise _DiffersError("the checksum differs")
        return content

    return retried(attempt, config, granule.url)


class Blocks:
    """A remote file's bytes, fetched by the blocks that are asked for; the last few are kept."""

    def __init__(self, granule: Granule, config: Access) -> None:
        self._granule, self._config = granule, config
        self._files, _ = filesystem(config)
        self._path = self._files._strip_protocol(granule.url)
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self.size = granule.size
        self.fetched_bytes = 0

    def piece(self, start: int, count: int) -> bytes:
        """These bytes, short only at the end of the file; raises `UnavailableGranule`."""
        parts = []
        stop = min(start + count, self.size)
        while start < stop:
            block, offset = divmod(start, BLOCK_BYTES)
            parts.append(self._block(block)[offset : offset + stop - start])
            start += len(parts[-1])
        return b"".join(parts)

    def _block(self, number: int) -> bytes:
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        start = number * BLOCK_BYTES
        stop = min(start + BLOCK_BYTES, self.size)

        def attempt() -> bytes:
            content: bytes = self._files.cat_file(self._path, start=start, end=stop)
            if len(content) != stop - start:
                raise _DiffersError(f"{len(content)} of {stop - start} bytes came")
            return content

        content = retried(attempt, self._config, f"{self._granule.url} at byte {start}")
        self.fetched_bytes += len(content)
        self._kept[number] = content
        while len(self._kept) > BLOCKS_KEPT:
            self._kept.popitem(last=False)
        return content

    def unchanged(self) -> bool:
        """The object is still the one that was listed: blocks of two versions would make a chimera."""
        return etag(self._files.info(self._path)) == self._granule.etag


def etag(info: dict[str, Any]) -> str:
    """What tells one version of a file from the next: the store's entity tag, or the time of change."""
    tag = str(info.get("ETag", "")).strip('"')
    return tag or f"{info.get('mtime', '')}"


def refusal(config: Access, error: Exception) -> FewcastError:
    """The one line for a source that cannot be listed, or none of whose granules can be fetched."""
    source = config.source
    if isinstance(error, (*NO_ACCESS, RefusedGranule)):
        how = (
            "set ingest.anonymous=false and give credentials in the environment"
            if config.anonymous
            else "correct the credentials in the environment, or set ingest.anonymous=true for a public bucket"
        )
        return FewcastError(f"access to {source} was refused", found=_line(error), mend=how)
    if isinstance(error, FileNotFoundError):
        _, _, prefix = source.removeprefix("s3://").strip("/").partition("/")
        found = "no such folder"
        if source.startswith("s3://"):
            found = "no such bucket" + (f", or nothing in it under {prefix}" if prefix else "")
        return FewcastError(f"{source} does not exist", found=found, mend="correct ingest.source")
    return AwayError(
        f"{source} cannot be reached", found=_line(error), mend="check the network and ingest.endpoint_url"
    )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
