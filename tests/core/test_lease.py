"""The lease in a bucket, on a bucket in memory and a clock in the test's hands."""

import json
import subprocess
import sys
import threading
import uuid

import pytest

from core.archive import lock
from core.errors import AwayError, FewcastError


class Bucket:
    """The conditional puts of one object."""

    url = "s3://bucket/archive.zarr"

    def __init__(self, body=None):
        self.body, self.tag = body, "given" if body else ""

    def get(self, key):
        return self.body

    def delete(self, key):
        self.body, self.tag = None, ""

    def call(self, method, key, Body=b"", IfMatch=None, IfNoneMatch=None):
        if method == "head_object":
            if self.body is None:
                raise FileNotFoundError(key)
            return {"ETag": self.tag}
        if (IfNoneMatch and self.body is not None) or (IfMatch and IfMatch != self.tag):
            raise FileExistsError(key)
        self.body, self.tag = Body, uuid.uuid4().hex
        return {"ETag": self.tag}


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(lock, "_now", lambda: now[0])
    return now


def held(bucket, sleep=lambda _: None):
    """A lease whose renewing thread never runs, as in a process that is suspended."""
    lease = lock.Lease(bucket)
    lease._renewing = threading.Thread(target=lambda: None)
    lease.acquire(sleep)
    return lease


def test_a_lease_that_another_may_have_taken_is_not_believed(clock):
    lease = held(Bucket())
    clock[0] += lock.EXPIRE_SECONDS - lock.RENEW_SECONDS - 1
    lease.check()
    assert lease._put(IfMatch=lease.tag)
    clock[0] += lock.EXPIRE_SECONDS - lock.RENEW_SECONDS - 1
    lease.check()
    clock[0] += 2
    with pytest.raises(FewcastError, match="another process has taken over"):
        lease.check()


def test_a_bucket_that_is_away_has_not_taken_the_lease(clock):
    class Away(Bucket):
        def call(self, method, key, **arguments):
            if self.body and method == "put_object":
                raise AwayError("s3://bucket cannot be reached", found="a timeout", mend="run again")
            return super().call(method, key, **arguments)

    lease = held(Away())
    with pytest.raises(AwayError):
        lease._put(IfMatch=lease.tag)
    lease.check()


@pytest.mark.parametrize("here", [True, False])
def test_only_a_dead_process_of_this_very_machine_is_known_to_be_dead(clock, here):
    """A container may have this one's host name, and process numbers of its own."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    machine = lock._machine() if here else "another boot"
    body = {"who": "another", "host": lock.socket.gethostname(), "machine": machine, "process": ended.pid}
    waits = []
    held(Bucket(json.dumps(body).encode()), waits.append).release()
    assert sum(waits) == (0 if here else lock.EXPIRE_SECONDS)
