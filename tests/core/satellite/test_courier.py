"""The courier brings what a download brings, and nobody misses it when it has gone."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import fsspec
import numpy as np
import psutil
import pytest

from core.config import IngestConfig
from core.satellite import courier, remote, source
from core.satellite.granule import Granule, Reason, RefusedGranule, UnavailableGranule
from tests.core import loopback
from tests.core.satellite.test_source import settings

ROOT = Path(__file__).parents[3]
CONTENTS = [bytes([i]) * (i * 40_000) for i in range(12)]


@pytest.fixture(scope="module")
def server():
    with loopback.seaweed() as endpoint:
        client = boto3.session.Session().client("s3", endpoint_url=endpoint, region_name="us-east-1", **secrets())
        client.create_bucket(Bucket="granules")
        for i, content in enumerate(CONTENTS):
            client.put_object(Bucket="granules", Key=f"{i}", Body=content)
        yield endpoint


def secrets() -> dict[str, str]:
    return {name.lower(): loopback.CREDENTIALS[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}


@pytest.fixture
def config(server, monkeypatch):
    for name, value in (loopback.CREDENTIALS | {"AWS_ENDPOINT_URL": server}).items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield settings("s3://granules", anonymous=False, connections=4, retries=1)
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def own(monkeypatch):
    """A courier of our own that starts its process after a few files."""
    monkeypatch.setattr(courier, "STARTS_AFTER", 3)
    own = courier.Courier()
    yield own
    own.end()


def granule(i: int, **told: object) -> Granule:
    size = len(CONTENTS[i]) if i < len(CONTENTS) else 1
    return Granule(**{"url": f"s3://granules/{i}", "channel": "c", "time": np.datetime64("NaT"), "size": size} | told)


def started(own: courier.Courier, config: IngestConfig) -> psutil.Process:
    for i in range(3):
        assert own.fetch(granule(i), config) == CONTENTS[i]
    own.started.wait(60)
    return psutil.Process(own._process._process.pid)


def never(*_: object) -> bytes:
    raise AssertionError("fetched in this process")


def start_the_courier(config: IngestConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process that an ingest uses fetch everything from now on."""
    courier.COURIER.end()
    monkeypatch.setattr(courier, "STARTS_AFTER", 1)
    courier.COURIER._count(config)
    assert courier.COURIER.started.wait(60)
    monkeypatch.setattr(remote, "fetch", never)


def test_many_files_come_by_a_process_of_their_own(own, config, monkeypatch):
    started(own, config)
    monkeypatch.setattr(remote, "fetch", never)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda i: own.fetch(granule(i), config), range(12))) == CONTENTS


def test_a_few_files_start_none(own, config):
    for i in range(2):
        own.fetch(granule(i), config)
    assert own._starts is None


def test_what_could_not_be_fetched_there_is_told_here(own, config, monkeypatch):
    started(own, config)
    monkeypatch.setattr(remote, "fetch", never)
    with pytest.raises(UnavailableGranule, match="s3://granules/99") as caught:
        own.fetch(granule(99), config)
    assert caught.value.reason is Reason.VANISHED
    with pytest.raises(UnavailableGranule, match="the checksum differs") as caught:
        own.fetch(granule(3, etag="0" * 32), config.model_copy(update={"retries": 0}))
    assert caught.value.reason is Reason.UNREACHABLE
    with pytest.raises(RefusedGranule, match="access denied"):
        own.fetch(
            granule(3), config.model_copy(update={"anonymous": True, "endpoint_url": os.environ["AWS_ENDPOINT_URL"]})
        )


def test_more_at_a_time_than_there_are_lines_are_fetched_here(own, config):
    started(own, config)
    lines, own._process._idle = own._process._idle, []
    assert own.fetch(granule(5), config) == CONTENTS[5]
    own._process._idle = lines


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_answer_that_was_not_waited_for_is_never_taken_for_another(own, config, monkeypatch, error):
    """Ctrl-C in a notebook: the process lives on, and so does what is on its way."""
    started(own, config)
    real = courier._Line.receive

    def interrupted(line):
        monkeypatch.setattr(courier._Line, "receive", real)
        raise error

    monkeypatch.setattr(courier._Line, "receive", interrupted)
    with contextlib.suppress(KeyboardInterrupt):
        assert own.fetch(granule(7), config) == CONTENTS[7]
    for _ in range(2):
        assert [own.fetch(granule(i), config) for i in range(12)] == CONTENTS


def test_few_files_an_hour_start_none(own, config, monkeypatch):
    monkeypatch.setattr(courier, "IDLE_SECONDS", 0.0)  # each comes long after the one before
    for i in range(12):
        own.fetch(granule(i), config)
    assert own._starts is None


def test_one_that_has_ended_leaves_nothing_of_itself(own, config):
    process = started(own, config)
    before = psutil.Process().num_fds()
    process.kill()
    own._starts.join(20)
    assert own._process is None
    assert not process.is_running()
    assert psutil.Process().num_fds() == before - 8, "four lines of two pipes"


def test_where_descriptors_are_short_none_is_lost():
    program = (
        "import os, resource; from core.satellite import courier;"
        "count = lambda: len(os.listdir('/proc/self/fd'));"
        "before = count(); resource.setrlimit(resource.RLIMIT_NOFILE, (before + 20, before + 20))\n"
        "try: courier._Process(64)\n"
        "except OSError: print(count() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "0\n", done.stderr


def test_a_killed_process_is_missed_by_nobody_and_started_again(own, config):
    first = started(own, config)
    with ThreadPoolExecutor(4) as pool:
        work = [pool.submit(own.fetch, granule(i % 12), config) for i in range(60)]
        first.send_signal(signal.SIGKILL)
        assert [future.result() for future in work] == [CONTENTS[i % 12] for i in range(60)]
    own.started.wait(60)
    assert own._process._process.pid != first.pid


def test_other_credentials_are_not_used_by_the_old_process(own, config, monkeypatch):
    first = started(own, config)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(UnavailableGranule, match="access denied"):
        own.fetch(granule(1), config)
    assert not first.is_running()


def test_where_no_process_starts_the_work_goes_on(own, config, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    for i in range(12):
        assert own.fetch(granule(i), config) == CONTENTS[i]
    own.started.wait(60)
    assert own._process is None


def test_a_folder_needs_none(tmp_path, monkeypatch):
    (tmp_path / "0").write_bytes(b"content")
    monkeypatch.setattr(courier.COURIER, "fetch", never)
    found = Granule(f"file://{tmp_path}/0", "c", np.datetime64("NaT"), 7)
    assert source.fetch(found, settings(tmp_path)) == b"content"


def ends_within(process: psutil.Process, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.05)
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_it_ends_when_nobody_asks(monkeypatch):
    program = "from core.satellite import courier; courier.IDLE_SECONDS = 0.5; courier.main()"
    real = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda command, **told: real([command[0], "-c", program, *command[4:]], **told)
    )
    process = courier._Process(2)
    assert ends_within(psutil.Process(process._process.pid), 20)
    process.end()


def test_it_ends_without_a_word_where_nobody_waited_for_its_start():
    program = (
        "import os, threading, time; from core.satellite import courier;"
        "threading.Thread(target=courier._Process, args=(2,), daemon=True).start(); time.sleep(0.3); os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")  # its stderr is ours, so this has waited for its end


def test_it_ends_with_whoever_asked():
    program = (
        "import time; from core.satellite import courier; process = courier._Process(2);"
        "print(process._process.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as asking:
        other = psutil.Process(int(asking.stdout.readline()))
        asking.kill()
    assert ends_within(other, 20)
