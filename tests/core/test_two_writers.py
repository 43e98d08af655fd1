"""A writer that wakes after another has taken the archive over, and a frame that it was about to put."""

import os

import boto3
import numpy as np
import pytest
import s3fs

from core.archive import Archive, Status, Stored
from core.archive.bucket import ReplacedError
from core.archive.lock import LOCK, exclusive, require_held
from core.archive.objects import open_objects
from core.errors import FewcastError
from tests.core import loopback
from tests.core.test_archive import TIME, frame, make

KIND = "brightness_temperature"


@pytest.fixture(scope="module")
def server():
    before = {name: os.environ.get(name) for name in (*loopback.CREDENTIALS, "AWS_ENDPOINT_URL")}
    with loopback.seaweed() as endpoint:
        os.environ.update(loopback.CREDENTIALS, AWS_ENDPOINT_URL=endpoint)
        s3fs.S3FileSystem.clear_instance_cache()
        boto3.session.Session().client("s3").create_bucket(Bucket="archives")
        yield
    for name, value in before.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["disk", "bucket"])
def url(request, tmp_path):
    if request.param == "disk":
        return str(tmp_path / "a.zarr")
    request.getfixturevalue("server")
    return f"s3://archives/{tmp_path.name}"


@pytest.mark.parametrize("known", ["nothing", "a channel to keep", "the channel itself"])
@pytest.mark.parametrize("recorded", [True, False])
def test_a_frame_that_comes_late_replaces_nothing_of_the_next_writer(url, known, recorded):
    late, next_one = make(url), Archive.open(url, "r+")
    slot = late.slot(TIME)
    if known != "nothing":
        late.record(late.write_frame(slot, frame("wv063" if known == "a channel to keep" else "ir105", seed=1)))
    late.objects.put(LOCK, b"of the late one")
    real, turns = late.objects.put, []

    def put(key, data, over=None):
        if not turns:
            turns.append(key)
            next_one.objects.put(LOCK, b"of the next one")
            found = next_one.write_frame(slot, [frame("ir105", seed=2), frame("wv063", seed=3)], "of the next one")
            if recorded:
                next_one.record(found)
        real(key, data, over)

    late.objects.put = put
    with pytest.raises(FewcastError, match="is being written: found that another process has taken over"):
        late.write_frame(slot, frame("ir105"), "of the late one")
    next_one.record([Stored(slot, name, Status.COMPLETE) for name in ("ir105", "wv063")])
    got = next_one.read(KIND, [slot])[0]
    for values, seed, name in zip(got, (2, 3), ("ir105", "wv063"), strict=True):
        assert np.nanmax(np.abs(values - frame(name, seed=seed).values)) <= 0.0051


def test_what_a_killed_writer_left_is_replaced_to_the_byte(url, tmp_path):
    archive, undisturbed = make(url), make(tmp_path / "undisturbed.zarr")
    slot = archive.slot(TIME)
    archive.write_frame(slot, [frame("ir105"), frame("wv063")])
    with exclusive(archive.objects) as hold:
        archive.record(archive.write_frame(slot, frame("wv063", seed=4), hold.name))
    undisturbed.write_frame(slot, frame("wv063", seed=4))
    key = archive.key(KIND, slot)
    assert archive.objects.get(key) == undisturbed.objects.get(key)


def test_a_hold_is_known_by_its_name_anywhere_until_it_ends(url):
    with exclusive(open_objects(url)) as hold:
        require_held(open_objects(url), hold.name)
        with pytest.raises(FewcastError, match="another process has taken over"):
            require_held(open_objects(url), "another")
    with exclusive(open_objects(url)), pytest.raises(FewcastError, match="another process has taken over"):
        require_held(open_objects(url), hold.name)


def test_a_put_goes_only_over_the_version_that_it_names(url):
    objects = open_objects(url)
    assert objects.tag("a/b") == ""
    objects.put("a/b", b"first", over="")
    first = objects.tag("a/b")
    with pytest.raises(ReplacedError):
        objects.put("a/b", b"again", over="")
    objects.put("a/b", b"second", over=first)
    with pytest.raises(ReplacedError):
        objects.put("a/b", b"third", over=first)
    assert objects.get("a/b") == b"second"
    second = objects.tag("a/b")
    objects.delete("a/b")
    with pytest.raises(ReplacedError):
        objects.put("a/b", b"fourth", over=second)


def test_a_put_that_s3fs_would_send_in_parts_keeps_its_condition(server):
    objects, large = open_objects("s3://archives/large"), bytes(101 << 20)
    objects.put("a", large, over="")
    with pytest.raises(ReplacedError):
        objects.put("a", large, over="")
    tag = objects.tag("a")
    assert "-" not in tag  # as the tags of objects in parts have it
    objects.put("a", b"small", over=tag)
    assert objects.get("a") == b"small"
