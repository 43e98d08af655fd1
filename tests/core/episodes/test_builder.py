"""Stores: what is in them, the same bytes every time, and what happens when things go wrong."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from core.archive.lock import exclusive
from core.archive.objects import open_objects
from core.config import EpisodesConfig
from core.episodes import EpisodeStore, build, builder, validate
from core.episodes.frames import Frames
from core.errors import FewcastError
from core.report import Silent

Configure = Callable[..., EpisodesConfig]


def shards(store: str) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in Path(store, "frames").glob("c.*")}


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.done: list[tuple[int, int, str]] = []

    def message(self, text: str) -> None:
        self.lines.append(text)

    def progress(self, done: int, total: int, note: str = "") -> None:
        self.done.append((done, total, note))


@pytest.mark.parametrize("channels", [["vis"], ["vis", "ir"]])
def test_episodes_are_the_archives_pixels(configure: Configure, channels: list[str]) -> None:
    config = configure(channels=channels, margin_pixels=2, tile_pixels=12, jitter_pixels=5, compression="lz4")
    summary = build(config)
    store = EpisodeStore.open(config.store)
    assert sum(summary.counts.values()) == len(store.catalog) == summary.built
    with xr.open_zarr(config.archive, mask_and_scale=False) as archive:
        three_days = archive.isel(time=slice(144))
        raw = {"ir": three_days["brightness_temperature"].values[:, 0], "vis": three_days["reflectance"].values[:, 0]}
    for row in store.catalog.sample(25, random_state=1).itertuples():
        block = store.read([row.id])[0]
        for w, start in enumerate([*row.support, *row.query]):
            for c, name in enumerate(channels):
                truth = raw[name][start : start + 5, row.y0 - 2 : row.y0 + 14, row.x0 - 2 : row.x0 + 14]
                assert np.array_equal(block[w, :, c], truth)
        assert row.query_init[0] == EpisodeStore.open(config.store).init_times([row.id])[1][0, 0]
    times = xr.open_zarr(config.archive)["time"].values
    row = store.catalog.iloc[3]
    assert np.array_equal(np.asarray(row["support_init"], "M8[ns]"), times[row["support"] + 1])
    assert store.lead_minutes == (30, 60, 90)
    assert not set(store.catalog["support"].explode()) & set(range(16, 22)), "no window touches a gap"
    assert not set(store.catalog["query"].explode()) & {*range(71, 76), *range(36, 41), *range(96, 101)}


def test_partial_frames_are_used_when_asked_for(configure: Configure) -> None:
    config = configure(allow_partial=True)
    plain = configure(store=config.store + "2")
    more, fewer = build(config).windows, build(plain).windows
    assert (more["windows"] >= fewer["windows"]).all()
    assert more["windows"].sum() > fewer["windows"].sum()


def test_the_same_bytes_after_an_error_and_a_torn_shard(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "SHARDS_PER_TASK", 16)
    first, second = (configure(store=configure().store + name) for name in "ab")
    build(first)
    put, count = builder.put_soon, [0]

    def failing(objects: Any, key: str, data: bytes) -> None:
        count[0] += 1
        if count[0] == 60:
            raise OSError("no space left on device")
        put(objects, key, data)

    with monkeypatch.context() as patch:
        patch.setattr(builder, "put_soon", failing)
        with pytest.raises(OSError, match="no space"):
            build(second)
    with pytest.raises(FewcastError, match="no finished store"):
        EpisodeStore.open(second.store)
    torn = sorted(Path(second.store, "frames").glob("c.*"))[0]
    torn.write_bytes(torn.read_bytes()[:100])
    summary = build(second)
    assert summary.skipped > 0, "finished tasks are not done again"
    assert shards(first.store) == shards(second.store)
    assert EpisodeStore.open(first.store).digest == EpisodeStore.open(second.store).digest


def test_two_builds_of_one_store_do_not_mix(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    config, other = configure(), configure(seed=1)
    with exclusive(open_objects(config.store)), pytest.raises(FewcastError, match="is being written"):
        build(config)
    plan, digests = builder.plan, []

    def slow(*arguments: Any, **more: Any) -> Any:
        planned = plan(*arguments, **more)
        if not digests:
            digests.append("")
            digests[0] = build(other).digest  # it overtakes this one
        return planned

    monkeypatch.setattr(builder, "plan", slow)
    with pytest.raises(FewcastError, match="another build has finished meanwhile"):
        build(config)
    assert EpisodeStore.open(config.store).digest == digests[0]
    assert validate(config.store).valid


def test_a_second_run_skips_and_says_so(configure: Configure) -> None:
    config, told = configure(), Told()
    first = build(config, report=told)
    assert any("test_both: " in line and "valid windows" in line for line in told.lines)
    assert told.done[-1][0] == told.done[-1][1]
    again = Told()
    second = build(config, report=again)
    assert (second.built, second.skipped, second.digest) == (0, first.built, first.digest)
    assert "nothing to do" in again.lines[-1]


def test_another_seed_gives_other_episodes_and_other_settings_are_refused(configure: Configure) -> None:
    config = configure()
    build(config)
    other = configure(seed=1, store=config.store + "1")
    build(other)
    a, b = (EpisodeStore.open(c.store).catalog for c in (config, other))
    assert a["seed"].tolist() != b["seed"].tolist()
    with pytest.raises(FewcastError, match=r"other settings \(tile_pixels\).*found tile_pixels = 16 there, 12 asked"):
        build(configure(tile_pixels=12))


def test_normalisation_is_of_training_pixels_alone(configure: Configure) -> None:
    config = configure()
    build(config)
    store = EpisodeStore.open(config.store)
    from core.episodes.lattice import lattice

    tiles = lattice(config, (56, 83))
    with xr.open_zarr(config.archive) as archive:
        frames = archive["brightness_temperature"][:48, 0].values
    good = [t for t in range(48) if t not in (20, 21, 40)]
    pixels = np.concatenate(
        [frames[good, t.y0 : t.y0 + 16, t.x0 : t.x0 + 16].ravel() for t in tiles.itertuples() if t.split == "train"]
    )
    assert store.normalisation.mean[0] == pytest.approx(np.nanmean(pixels.astype(float)), rel=1e-6)
    assert store.normalisation.std[0] == pytest.approx(np.nanstd(pixels.astype(float)), rel=1e-5)


def test_what_cannot_be_built_is_explained_with_counts(configure: Configure) -> None:
    with pytest.raises(FewcastError, match=r"no train episode can be drawn.*found \d+ valid windows \(\d+ starts\) in"):
        build(configure(support_windows=30, query_windows=30))
    with pytest.raises(FewcastError, match=r"no usable frame at the splits' times: found \d+ slots wanted, 139 usable"):
        build(
            configure(
                {
                    name: [{"start": f"2022-0{m}-01", "end": f"2022-0{m}-02"}]
                    for m, name in enumerate(("train", "validation", "test"), 2)
                }
            )
        )
    with pytest.raises(FewcastError, match="cannot give the channels ir, wv: found ir, vis"):
        build(configure(channels=["ir", "wv"]))
    with pytest.raises(FewcastError, match="no archive at"):
        build(configure(archive="nowhere.zarr"))
    assert not Path(configure().store, "zarr.json").exists()


def test_a_span_without_data_is_told_with_its_counts(configure: Configure) -> None:
    told = Told()
    train = [
        {"start": "2021-11-29 00:00", "end": "2021-11-30 00:00"},
        {"start": "2021-12-02 00:00", "end": "2021-12-04"},
    ]
    later = {
        "validation": [{"start": "2021-11-30", "end": "2021-12-01"}],
        "test": [{"start": "2021-12-01", "end": "2021-12-02"}],
    }
    build(configure({"train": train, **later}, span_stride_hours=20, input_frames=4, target_frames=6), report=told)
    assert any("no valid window in" in line and "usable frames in" in line for line in told.lines)
    assert "train: no usable frame from 2021-12-02 00:00 to 2021-12-04 00:00" in told.lines


def test_what_travels_to_a_cluster_survives_the_journey(archive: Any) -> None:
    frames = Frames.open(archive.url, ["vis"])
    again = pickle.loads(pickle.dumps(frames))
    box = (slice(3, 20), slice(5, 30))
    assert np.array_equal(again.codes([5, 20, 7], *box), frames.codes([5, 20, 7], *box))
    assert (again.codes([20], *box) == 65535).all()
