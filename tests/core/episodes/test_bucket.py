"""The same store in a bucket: S3 as it is spoken, on this machine."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
import s3fs

from core.config import EpisodesConfig
from core.episodes import EpisodeStore, build, validate
from core.episodes.frames import Frames
from core.episodes.loader import Loader


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    client = boto3.session.Session().client("s3")
    client.create_bucket(Bucket="lake")
    yield client
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_a_bucket_holds_the_same_store(
    configure: Callable[..., EpisodesConfig], bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = configure(channels=["ir"], train_episodes=10, validation_episodes=2, test_episodes=2)
    for path in Path(local.archive).rglob("*"):
        if path.is_file() and "reflectance/c" not in str(path):
            bucket.upload_file(str(path), "lake", f"archive.zarr/{path.relative_to(local.archive)}")
    remote = local.model_copy(update={"archive": "s3://lake/archive.zarr", "store": "s3://lake/episodes.zarr"})
    first, second = build(local), build(remote)
    assert first.digest == second.digest
    assert build(remote).built == 0
    here, there = EpisodeStore.open(local.store), EpisodeStore.open(remote.store)
    assert np.array_equal(here.read([5, 0, 9]), there.read([5, 0, 9]))
    assert Loader(there, split="train", batch_size=2).batch(1).ids == Loader(here, split="train", batch_size=2).ids(1)
    frames, slots = Frames.open(remote.archive, ["ir"]), range(60, 144)
    asked = frames.written(slots)
    monkeypatch.setattr("core.episodes.frames.ASKED", 0)
    assert frames.written(slots) == asked, "listed"
    assert len(set(asked)) > 10
    bucket.delete_object(Bucket="lake", Key="episodes.zarr/frames/c.4.0.0.0.0.0")
    assert list(validate(remote.store).damaged) == [4]
    assert validate(remote.store, rebuild_damaged=True).valid
    records = bucket.list_objects_v2(Bucket="lake", Prefix="episodes.zarr/parts")
    assert records["KeyCount"] == 0, "records of finished tasks are gone"
