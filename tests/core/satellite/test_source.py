import hashlib
from datetime import datetime

import numpy as np
import pytest
from aiohttp import ClientPayloadError

from core.config import IngestConfig
from core.errors import AwayError, FewcastError
from core.satellite import remote, source
from core.satellite.granule import CorruptGranule, Reason, UnavailableGranule
from tests.core.satellite import makers

BUCKET = "noaa-gk2a-pds"


def settings(root, **changes):
    base = {
        "source": str(root),
        "channels": ["ir105", "vi005"],
        "times": {"start": "2023-09-05T12:00", "end": "2023-09-05T13:00"},
        "origin": "2023-09-05T00:00",
        "cadence_minutes": 10,
        "timeout_seconds": 5,
        "retries": 2,
    }
    return IngestConfig.model_validate(base | changes)


def raw(channel, time, shape=(20, 30)):
    finer = makers.AMI_CODE.get(channel, ("", 1))[1]
    generator = np.random.default_rng([int(time), finer])
    return generator.integers(500, 1500, (shape[0] * finer, shape[1] * finer), dtype=np.uint16)


TIMES = [f"2023090512{minute:02d}" for minute in (0, 2, 10, 20, 30)] + ["202309051300"]


def granules():
    """Keys and contents: two bands at five times within the hour, one of them off the archive's slots, one after."""
    return {
        makers.gk2a_name(channel, time): makers.gk2a(channel, time, raw(channel, time))
        for channel in ("ir105", "vi005")
        for time in TIMES
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("source")
    for key, content in granules().items():
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(content)
    return root


@pytest.fixture(params=["folder", "s3"])
def config(request):
    if request.param == "folder":
        return settings(request.getfixturevalue("folder"))
    endpoint, _ = request.getfixturevalue("s3")
    return settings(f"s3://{BUCKET}", endpoint_url=endpoint, anonymous=False)


def test_the_slots_of_the_range_are_listed_in_order(config):
    found = source.list_granules(config)
    assert [(str(g.time)[11:16], g.channel) for g in found] == [
        (minute, channel) for minute in ("12:00", "12:10", "12:20", "12:30") for channel in ("ir105", "vi005")
    ]
    assert all(g.size == len(source.fetch(g, config)) for g in found[:2])
    narrow = config.times.model_copy(update={"end": datetime.fromisoformat("2023-09-05T12:10+00:00")})
    assert len(source.list_granules(config, narrow)) == 2


def test_bands_of_two_resolutions_come_onto_one_grid(config):
    found = source.list_granules(config)
    grid = source.archive_grid(found, config)
    assert grid.shape == (20, 30)
    frames = [source.read_frame(g, config, grid) for g in found[:2]]
    assert [f.kind for f in frames] == ["brightness_temperature", "reflectance"]
    gain, offset, _, _, albedo = makers.AMI["vi005"]
    fine = 100 * albedo * (gain * raw("vi005", TIMES[0]).astype(float) + offset)
    np.testing.assert_allclose(frames[1].values, fine.reshape(20, 2, 30, 2).mean(axis=(1, 3)), rtol=1e-5)


def test_a_file_read_by_blocks_gives_the_same_frame(config, monkeypatch):
    monkeypatch.setattr(remote, "BLOCK_BYTES", 1 << 14)
    monkeypatch.setattr(remote, "BLOCKS_KEPT", 2)
    found = source.list_granules(config)[1]
    grid = source.archive_grid([found], config.model_copy(update={"channels": [found.channel]}))
    whole = source.read_frame(found, config, grid)
    monkeypatch.setattr(source, "_is_small", lambda part, config: False)
    np.testing.assert_array_equal(source.read_frame(found, config, grid).values, whole.values)


def test_one_wrong_grid_does_not_decide_the_archives(folder, tmp_path):
    config = settings(tmp_path, channels=["ir105"])
    for i, time in enumerate(TIMES[:1] + TIMES[2:5]):
        content = makers.gk2a("ir105", time, raw("ir105", time), shift=(50, 0) if i == 0 else (0, 0))
        path = tmp_path / makers.gk2a_name("ir105", time)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    found = source.list_granules(config)
    grid = source.archive_grid(found, config)
    with pytest.raises(CorruptGranule, match="overlap"):
        source.read_frame(found[0], config, grid)
    assert source.read_frame(found[1], config, grid).reason is Reason.NONE


def test_a_channel_that_has_not_come_leaves_the_grid_open(config):
    """It may be the coarsest."""
    fine = [granule for granule in source.list_granules(config) if granule.channel == "vi005"]
    with pytest.raises(source.NothingReadableError, match=r"holds nothing of ir105 that can be read: found no granule"):
        source.archive_grid(fine, config)


def test_what_a_damaged_grid_makes_of_the_alignment_is_a_damaged_granule(folder, monkeypatch):
    def fail(*_):
        raise RuntimeError("Invalid projection")  # as pyproj's CRSError is

    config = settings(folder, channels=["ir105"])
    found = source.list_granules(config)[0]
    grid = source.archive_grid([found], config)
    monkeypatch.setattr(source.grid, "align", fail)
    with pytest.raises(CorruptGranule, match="aligning: Invalid projection") as caught:
        source.read_frame(found, config, grid)
    assert caught.value.reason is Reason.DAMAGED


def test_a_vanished_granule_is_unavailable_not_corrupt(config):
    from dataclasses import replace

    granule = source.list_granules(config)[0]
    gone = replace(granule, url=granule.url.replace("ir105", "ir999"))
    with pytest.raises(UnavailableGranule) as caught:
        source.fetch(gone, config)
    assert caught.value.reason is Reason.VANISHED


def test_a_source_that_does_not_exist_is_told_in_one_line(tmp_path, s3):
    endpoint, _ = s3
    for config in (
        settings(tmp_path / "nowhere"),
        settings("s3://no-such-bucket", endpoint_url=endpoint, anonymous=False),
    ):
        with pytest.raises(FewcastError, match=r"does not exist: found no such (folder|bucket)") as caught:
            source.list_granules(config)
        assert "\n" not in str(caught.value)


def test_an_endpoint_that_does_not_answer_is_told_in_one_line():
    config = settings("s3://x", endpoint_url="http://127.0.0.1:9", anonymous=True, retries=1)
    with pytest.raises(AwayError, match="cannot be reached") as caught:
        source.list_granules(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("anonymous", "expected"), [(True, "https://s3.amazonaws.com"), (False, "http://127.0.0.1:9")])
def test_a_public_bucket_is_not_looked_for_at_our_own_endpoint(anonymous, expected, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ours")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "ours")
    files, _ = remote.filesystem(settings("s3://noaa-gk2a-pds", anonymous=anonymous))
    files.connect(refresh=True)
    assert files.s3.meta.endpoint_url == expected


def test_refused_credentials_are_told_with_the_mend(folder, monkeypatch):
    class Refusing:
        def find(self, *_, **__):
            raise PermissionError("The AWS Access Key Id you provided does not exist in our records.")

        def invalidate_cache(self): ...

    monkeypatch.setattr(remote, "filesystem", lambda config: (Refusing(), "bucket"))
    for anonymous, mend in ((True, "anonymous=false"), (False, "correct the credentials")):
        with pytest.raises(FewcastError, match="was refused") as caught:
            source.list_granules(settings("s3://bucket", anonymous=anonymous))
        assert mend in str(caught.value)


def test_an_empty_source_lists_nothing_and_has_no_grid(tmp_path):
    assert source.list_granules(settings(tmp_path)) == []
    with pytest.raises(FewcastError, match="nothing that can be read"):
        source.archive_grid([], settings(tmp_path))


def test_an_unknown_channel_is_refused(folder):
    with pytest.raises(FewcastError, match="vi004, vi005"):
        source.list_granules(settings(folder, channels=["ir999"]))


class Flaky:
    """A file system that fails as it is told: each outcome is an exception or the bytes to return."""

    def __init__(self, outcomes, size):
        self.outcomes, self.size, self.calls = list(outcomes), size, 0

    def _strip_protocol(self, url):
        return url

    def cat_file(self, path, **options):
        self.calls += 1
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def info(self, path):
        return {"size": self.size}


def flaky(monkeypatch, outcomes, size=4, etag=""):
    from core.satellite.granule import Granule

    files = Flaky(outcomes, size)
    monkeypatch.setattr(remote, "filesystem", lambda config, **_: (files, "root"))
    return files, Granule("memory://x", "ir105", np.datetime64("2023-09-05"), size, etag)


def test_a_failing_download_is_tried_again(monkeypatch):
    broken = ClientPayloadError("Response payload is not completed")  # no OSError, though it is the network's
    files, granule = flaky(monkeypatch, [OSError("500"), b"sho", broken, b"good"])
    assert remote.fetch(granule, settings("x", retries=3)) == b"good"
    assert files.calls == 4


def test_a_download_that_never_succeeds_is_unreachable(monkeypatch):
    files, granule = flaky(monkeypatch, [TimeoutError("slow")] * 3)
    with pytest.raises(UnavailableGranule, match="slow") as caught:
        remote.fetch(granule, settings("x"))
    assert caught.value.reason is Reason.UNREACHABLE
    assert files.calls == 3


def test_a_wrong_checksum_is_fetched_again_and_believed_when_it_repeats(monkeypatch):
    tag = hashlib.md5(b"good").hexdigest()
    _, granule = flaky(monkeypatch, [b"flip", b"good"], etag=tag)
    assert remote.fetch(granule, settings("x")) == b"good"
    _, granule = flaky(monkeypatch, [b"same", b"same"], etag=tag)
    assert remote.fetch(granule, settings("x")) == b"same"


@pytest.mark.parametrize(
    ("tag", "checks"), [(hashlib.md5(b"good").hexdigest(), False), ("f" * 32 + "-2", True), ("", True)]
)
def test_the_client_checks_what_no_md5_does(tag, checks, monkeypatch):
    files, granule = flaky(monkeypatch, [b"good"], etag=tag)
    seen = []
    monkeypatch.setattr(remote, "filesystem", lambda config, checks: (files, seen.append(checks)))
    assert remote.fetch(granule, settings("x")) == b"good"
    assert seen == [checks]
    validation = remote.options(settings("s3://x"), checks=checks)["config_kwargs"]["response_checksum_validation"]
    assert validation == ("when_supported" if checks else "when_required")


def test_waits_are_jittered_bounded_and_repeatable():
    def waits(what):
        found = []

        def fail():
            raise OSError("no")

        with pytest.raises(UnavailableGranule):
            remote.retried(fail, settings("x", retries=9), what, sleep=found.append)
        return found

    one, two = waits("a"), waits("b")
    assert one == waits("a")
    assert one != two
    assert len(one) == 9
    assert max(one) <= remote.LONGEST_WAIT_SECONDS


def test_a_prefix_that_is_missing_is_told_from_a_bucket(s3):
    endpoint, _ = s3
    config = settings(f"s3://{BUCKET}/some/prefix", endpoint_url=endpoint, anonymous=False)
    with pytest.raises(FewcastError, match="found no such bucket, or nothing in it under some/prefix"):
        source.list_granules(config)
