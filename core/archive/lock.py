"""One ingest at a time on one archive, safe after kill -9."""

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from core.archive.bucket import RemoteObjects
from core.archive.objects import LocalObjects, Objects
from core.errors import AwayError, FewcastError

LOCK = ".lock"
# A lease is renewed this often, and is taken from a holder who let it stand unchanged for this long.
RENEW_SECONDS, EXPIRE_SECONDS = 10.0, 40.0


class Hold(NamedTuple):
    """An archive held for writing: call it before a write that must not follow a lost hold."""

    check: Callable[[], None]
    name: str
    """By which `require_held` knows it on any worker."""

    def __call__(self) -> None:
        self.check()


def require_held(objects: Objects, name: str) -> None:
    """Raise `FewcastError` where the archive is not held under this name now."""
    if name.encode() not in (objects.get(LOCK) or b""):
        raise _held(objects.url, "that another process has taken over")


@contextmanager
def exclusive(objects: Objects, sleep: Callable[[float], None] = time.sleep) -> Iterator[Hold]:
    """Hold the archive for writing.

    On a disk it is an `flock`, which the kernel gives back when its holder dies, however it dies. In a bucket it is a
    lease object, made and renewed by conditional puts; no clocks are compared. `FewcastError` if another holds it.
    """
    if isinstance(objects, LocalObjects):
        name = uuid.uuid4().hex
        with _flock(objects.root, name):
            objects.sweep()
            yield Hold(lambda: None, name)
    else:
        assert isinstance(objects, RemoteObjects)
        lease = Lease(objects)
        lease.acquire(sleep)
        try:
            yield Hold(lease.check, lease.name)
        finally:
            lease.release()


@contextmanager
def _flock(root: Path, name: str) -> Iterator[None]:
    root.mkdir(parents=True, exist_ok=True)
    with open(root / LOCK, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise _held(str(root), file.readline().strip() or "another process") from error
        file.truncate(0)
        file.write(f"{_me()}\n{name}")
        file.flush()
        yield


class Lease:
    """An object that its holder keeps changing: whoever sees it stand still for long enough may take it."""

    def __init__(self, objects: RemoteObjects) -> None:
        self.objects = objects
        self.name = uuid.uuid4().hex
        self.tag = ""
        self._lost = False
        self._renewed = 0.0
        self._end = threading.Event()
        self._renewing = threading.Thread(target=self._renew, name="lease", daemon=True)

    def acquire(self, sleep: Callable[[float], None]) -> None:
        if not self._put(IfNoneMatch="*"):
            holder, seen = self._look()
            waited = 0.0
            dead = _died_here(holder)
            while seen and not dead and waited < EXPIRE_SECONDS:
                sleep(RENEW_SECONDS / 4)
                waited += RENEW_SECONDS / 4
                _, now = self._look()
                if now and now != seen:
                    raise _held(self.objects.url, holder.get("who", "another process"))
                seen = now
            if not self._put(**({"IfMatch": seen} if seen else {"IfNoneMatch": "*"})):
                raise _held(self.objects.url, "another process that was quicker")
        self._renewing.start()

    def check(self) -> None:
        """Raise `FewcastError` if the lease went to another, or may have: say, while this process was suspended."""
        if self._lost or _now() - self._renewed > EXPIRE_SECONDS - RENEW_SECONDS:
            raise _held(self.objects.url, "that another process has taken over")

    def release(self) -> None:
        self._end.set()
        self._renewing.join()
        if not self._lost and self._look()[1] == self.tag:
            self.objects.delete(LOCK)

    def _renew(self) -> None:
        while not self._lost and not self._end.wait(RENEW_SECONDS):
            try:
                self._lost = not self._put(IfMatch=self.tag)
            except Exception:  # a store that cannot be reached: hold on for as long as `check` does
                continue

    def _look(self) -> tuple[dict[str, Any], str]:
        try:
            tag = self.objects.call("head_object", LOCK)["ETag"]
            body = self.objects.get(LOCK)
        except FileNotFoundError:
            return {}, ""
        try:
            return json.loads(body or b"{}"), tag
        except ValueError:
            return {}, tag

    def _put(self, **condition: str) -> bool:
        """Whether the conditional put was done; a retried put that had been done after all counts as done."""
        nonce, begin = uuid.uuid4().hex, _now()
        me = {"who": _me(), "name": self.name, "machine": _machine(), "process": os.getpid()}
        body = json.dumps(me | {"nonce": nonce})
        try:
            self.tag = self.objects.call("put_object", LOCK, Body=body.encode(), **condition)["ETag"]
        except AwayError:  # whether it was done cannot be told: that is no lost lease
            raise
        except (OSError, ValueError) as error:
            found, tag = self._look()
            if found.get("nonce") != nonce:
                if tag or isinstance(error, FileExistsError):
                    return False
                raise
            self.tag = tag
        self._renewed = begin
        return True


def _died_here(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that is no more."""
    here = _machine()
    if not here or holder.get("machine") != here or not isinstance(holder.get("process"), int):
        return False
    try:
        os.kill(holder["process"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _machine() -> str:
    """This boot of this machine and the space in which process numbers count, which containers of one host name may not
    share; empty where neither can be told.
    """
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _now() -> float:
    """Seconds that go on while the machine sleeps, where the system has such a clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _held(url: str, holder: str) -> FewcastError:
    return FewcastError(f"{url} is being written", found=holder, mend="wait until it ends, then run again")
