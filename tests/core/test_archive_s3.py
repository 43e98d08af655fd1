"""The same archive in a bucket: a real S3 server, a proxy that fails, kills, and two writers at once."""

import json
import os
import threading
import time
from datetime import UTC, datetime

import boto3
import numpy as np
import pytest
import s3fs
import xarray as xr

from core.archive import Archive, Status, lock
from core.archive.bucket import RemoteObjects
from core.config import IngestConfig
from core.errors import AwayError, FewcastError
from core.ingest import ingest
from core.satellite import simulator, source
from core.satellite.granule import Frame, Granule, Grid, UnavailableGranule
from tests.core import loopback
from tests.core.killing import kill_and_finish
from tests.core.satellite.test_courier import start_the_courier

NOW = datetime(2024, 3, 2, 12, tzinfo=UTC)
BUCKET = "noaa-gk2a-pds"
SLOTS = 8


@pytest.fixture(scope="module")
def server():
    """A server with simulated granules under the public keys; its address is in the environment, as in production."""
    before = {name: os.environ.get(name) for name in (*loopback.CREDENTIALS, "AWS_ENDPOINT_URL")}
    with loopback.seaweed() as endpoint:
        os.environ.update(loopback.CREDENTIALS, AWS_ENDPOINT_URL=endpoint)
        client = boto3.session.Session().client("s3")
        for bucket in (BUCKET, "archives"):
            client.create_bucket(Bucket=bucket)
        simulator.simulate(config("s3://archives/unused"))
        yield endpoint
    for name, value in before.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def at(monkeypatch):
    """Point this process at an endpoint."""

    def point(endpoint: str) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        s3fs.S3FileSystem.clear_instance_cache()

    yield point
    s3fs.S3FileSystem.clear_instance_cache()


def config(archive: str, **changes) -> IngestConfig:
    base = {
        "source": f"s3://{BUCKET}", "anonymous": False, "archive": archive, "channels": ["ir105"],
        "times": {"start": "2024-03-01T22:00", "end": "2024-03-02T02:00"}, "origin": "2024-03-01T00:00",
        "cadence_minutes": 30, "years": 1, "timeout_seconds": 5, "connections": 4,
        "simulator": {"enabled": True, "seed": 5, "pixels": 48},
    }  # fmt: skip
    return IngestConfig.model_validate(base | changes)


def run(settings: IngestConfig):
    return ingest(settings, clock=lambda: NOW)


def contents(url: str) -> dict[str, bytes]:
    objects = Archive.open(url).objects
    return {key: objects.get(key) or b"" for key, _ in objects.keys("") if key != lock.LOCK}


@pytest.fixture(scope="module")
def undisturbed(server, tmp_path_factory):
    """The archive as a folder on a disk holds it."""
    url = str(tmp_path_factory.mktemp("disk") / "archive.zarr")
    run(config(url))
    return contents(url)


def test_a_bucket_holds_the_very_same_archive_and_plain_xarray_opens_it(server, undisturbed):
    url = "s3://archives/plain/archive.zarr"
    summary = run(config(url))
    assert (summary.written, summary.corrupt, summary.absent) == (SLOTS, 0, 0)
    assert contents(url) == undisturbed
    opened = xr.open_zarr(url)
    frame = opened.brightness_temperature.sel(time="2024-03-02T00:30").values[0]
    archive = Archive.open(url)
    slot = archive.slot(np.datetime64("2024-03-02T00:30"))
    assert np.nanmax(np.abs(archive.read("brightness_temperature", [slot])[0, 0] - frame)) < 1e-4
    assert run(config(url)).skipped == SLOTS
    assert lock.LOCK not in dict(archive.objects.keys(""))


@pytest.mark.parametrize("by_courier", [False, True])
def test_through_a_failing_network_the_archive_is_the_same(server, at, undisturbed, monkeypatch, by_courier):
    """Fetched by the ingest itself, and by the process of its own that many granules get."""
    monkeypatch.setattr("core.archive.bucket.FIRST_WAIT_SECONDS", 0.02)
    monkeypatch.setattr("core.archive.bucket.SILENT_SECONDS", 1.0)
    monkeypatch.setattr("core.patience.ANSWER_BYTES", 0)
    url = f"s3://archives/faulty-{by_courier}/archive.zarr"
    with loopback.faulty(server, rate=0.15, seed=2) as (endpoint, served):
        at(endpoint)
        if by_courier:
            start_the_courier(config(url), monkeypatch)
        for _ in range(3):  # a granule that could not be fetched is left for the next run
            if run(config(url, retries=8, timeout_seconds=1.0)).unavailable == 0:
                break
    assert set(served) >= set(loopback.FAULTS)
    at(server)
    assert contents(url) == undisturbed


def test_latest_lists_only_the_folders_of_slots_that_it_lacks(server, at, tmp_path):
    lines: list[str] = []
    settings = config(str(tmp_path / "archive.zarr"), mode="latest", lookback_hours=3.0)

    def latest(minute: int) -> tuple[int, list[str]]:
        lines.clear()
        summary = ingest(settings, clock=lambda: datetime(2024, 3, 2, 1, minute, tzinfo=UTC))
        return summary.written, [line for line in lines if "list-type" in line]

    with loopback.faulty(server, rate=0, lines=lines) as (endpoint, _):
        at(endpoint)
        written, listed = latest(10)
        assert (written, len(listed)) == (6, 4)  # the hours 22, 23, 00 and 01
        written, listed = latest(40)
        assert (written, len(listed)) == (1, 1)
        assert "LA%2F202403%2F02%2F01%2F" in listed[0]
        assert latest(50) == (0, [])
    at(server)


def test_a_granule_that_vanishes_after_the_listing_is_left_for_later(server, tmp_path, monkeypatch):
    key = simulator.key("ir105", np.datetime64("2024-03-01T23:30", "s"))
    client = boto3.session.Session().client("s3")
    body = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    settings = config(str(tmp_path / "archive.zarr"))
    listing = source.list_granules

    def list_and_lose(*arguments):
        granules = listing(*arguments)
        client.delete_object(Bucket=BUCKET, Key=key)
        return granules

    monkeypatch.setattr(source, "list_granules", list_and_lose)
    try:
        summary = run(settings)
    finally:
        client.put_object(Bucket=BUCKET, Key=key, Body=body)
        monkeypatch.undo()
    assert (summary.written, summary.unavailable, summary.corrupt) == (SLOTS - 1, 1, 0)
    assert (run(settings).written, (Archive.open(settings.archive).status == Status.COMPLETE).sum()) == (1, SLOTS)


@pytest.mark.parametrize("rounds", [1, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
def test_killed_while_writing_to_a_bucket_it_ends_bit_identical(server, undisturbed, tmp_path, rounds):
    url = f"s3://archives/killed-{rounds}/archive.zarr"
    # Each next ingest takes the lease of the dead process over.
    ended, kills, partial = kill_and_finish(config(url, connections=1), tmp_path, rounds, SLOTS, contents)
    print(f"{partial} of {kills} kills left an archive half done, {len(ended)} archives were completed")
    assert all(archive == undisturbed for archive in ended)
    assert partial >= max(1, rounds // 10)


@pytest.mark.parametrize("place", ["disk", "bucket", "bucket, by ranges"])
def test_a_reader_sees_old_frames_or_new_ones_while_they_are_replaced(server, tmp_path, monkeypatch, place):
    url = str(tmp_path / "a.zarr") if place == "disk" else f"s3://archives/{place.replace(', ', '-').replace(' ', '-')}"
    if "ranges" in place:
        monkeypatch.setattr("core.archive.bucket.TAIL_BYTES", 1)
    shape = (300, 260)
    grid = Grid(np.arange(shape[1]) * 2e3, -np.arange(shape[0]) * 2e3, {"grid_mapping_name": "geostationary"})
    archive = Archive.create(
        url, grid=grid, channels={"ir": "brightness_temperature"}, origin=NOW, cadence_minutes=10, years=1
    )
    rng = np.random.default_rng(0)
    time = np.datetime64(NOW.replace(tzinfo=None), "s")
    frames = [
        Frame("ir", "brightness_temperature", time, time, (base + rng.uniform(0, 9, shape)).astype(np.float32), grid)
        for base in (200, 290)
    ]
    archive.record(archive.write_frame(0, frames[0]))
    end = threading.Event()

    def replace() -> None:
        turn = 0
        while not end.is_set():
            turn += 1
            archive.write_frame(0, frames[turn % 2])

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        means = [round(float(archive.read("brightness_temperature", [0])[0, 0].mean()), 1) for _ in range(25)]
    finally:
        end.set()
        writer.join()
    assert set(means) == {round(float(frame.values.mean()), 1) for frame in frames}


def objects(name: str) -> RemoteObjects:
    return RemoteObjects(f"s3://archives/{name}")


def test_a_lease_excludes_the_living(server, monkeypatch):
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(lock, "EXPIRE_SECONDS", 3.0)
    with lock.exclusive(objects("living")) as check:
        with pytest.raises(FewcastError, match=f"is being written: found process {os.getpid()} on"):
            lock.Lease(objects("living")).acquire(time.sleep)
        check()
    with lock.exclusive(objects("living")):
        pass


def test_a_lease_of_the_dead_is_taken_once_and_its_holder_learns_of_it(server, monkeypatch):
    monkeypatch.setattr(lock, "EXPIRE_SECONDS", 0.6)
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.4)
    suspended = lock.Lease(objects("dead"))
    suspended._renewing = threading.Thread(target=lambda: None)
    suspended.acquire(time.sleep)
    with lock.exclusive(objects("dead")):
        suspended._renew()  # it wakes up
        with pytest.raises(FewcastError, match="another process has taken over"):
            suspended.check()
        suspended.release()
        assert objects("dead").get(lock.LOCK) is not None


def test_a_bucket_that_is_away_is_what_prefect_tries_again(at, monkeypatch):
    monkeypatch.setattr("core.archive.bucket.TRIES", 1)
    for name, value in loopback.CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    at("http://127.0.0.1:9")
    with pytest.raises(AwayError, match=r"s3://archives/x.zarr cannot be reached"):
        Archive.exists("s3://archives/x.zarr")


@pytest.fixture
def nobody(server, monkeypatch):
    """No credentials in the environment, as where there is nothing but public buckets."""
    for name in loopback.CREDENTIALS:
        monkeypatch.delenv(name)
    s3fs.S3FileSystem.clear_instance_cache()
    yield {"anonymous": True, "endpoint_url": server}
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_private_bucket_is_refused_to_nobody_in_one_line_with_the_mend(nobody, tmp_path):
    with pytest.raises(FewcastError, match=f"access to s3://{BUCKET} was refused: .*ingest.anonymous=false") as caught:
        run(config(str(tmp_path / "archive.zarr"), **nobody))
    assert "\n" not in str(caught.value)
    time = np.datetime64("2024-03-01T23:30", "s")
    granule = Granule(f"s3://{BUCKET}/{simulator.key('ir105', time)}", "ir105", time, 1)
    with pytest.raises(UnavailableGranule, match="access denied"):
        source.fetch(granule, config("", **nobody))
    assert not (tmp_path / "archive.zarr").exists()


@pytest.fixture
def public(server):
    """A bucket that anybody may list and read, with the same granules."""
    client = boto3.session.Session().client("s3")
    client.create_bucket(Bucket="public")
    own = ["arn:aws:s3:::public", "arn:aws:s3:::public/*"]
    allowed = {"Effect": "Allow", "Principal": "*", "Action": ["s3:ListBucket", "s3:GetObject"], "Resource": own}
    client.put_bucket_policy(Bucket="public", Policy=json.dumps({"Version": "2012-10-17", "Statement": [allowed]}))
    simulator.simulate(config("s3://archives/unused", source="s3://public"))
    return "s3://public"


def test_a_public_bucket_is_read_by_nobody(public, nobody, undisturbed, tmp_path):
    settings = config(str(tmp_path / "archive.zarr"), source=public, **nobody)
    assert run(settings).written == SLOTS
    frames = {key: data for key, data in contents(settings.archive).items() if "/c/" in key}
    assert frames == {key: undisturbed[key] for key in frames}


@pytest.mark.parametrize(
    ("url", "environment", "message"),
    [
        ("s3://archives/x.zarr", {"AWS_SECRET_ACCESS_KEY": "wrong"}, r"access to s3://archives/x.zarr was refused"),
        ("s3://no-such-bucket/x.zarr", {}, r"the archive s3://no-such-bucket/x.zarr cannot be written: found .*bucket"),
        ("gs://archives/x.zarr", {}, r"an archive cannot live there: found gs://"),
    ],
)
def test_an_archive_that_cannot_be_written_is_one_clear_line(server, tmp_path, monkeypatch, url, environment, message):
    simulator.simulate(config("", source=str(tmp_path)))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(FewcastError, match=message) as caught:
        run(config(url, source=str(tmp_path)))
    assert "wrong" not in str(caught.value)
    s3fs.S3FileSystem.clear_instance_cache()
